use std::time::Duration;

use super::*;

fn read(text: &str) -> Loaded {
    parse(text, Path::new("config.toml")).unwrap()
}

fn error(text: &str) -> String {
    parse(text, Path::new("config.toml")).unwrap_err().to_string()
}

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let config = read("").config;
    assert_eq!(config, Config::default());
    assert_eq!(config.prefetch_timeout(), Duration::from_secs(10));
    let options = config.registry_options();
    assert_eq!(options.request_timeout, Duration::from_secs(30));
    assert_eq!(
        (options.retry.max_retries, options.retry.min_wait.as_millis(), options.retry.max_wait.as_secs()),
        (5, 30, 300)
    );
}

#[test]
fn mirrors_are_taken_in_order_with_their_headers() {
    let config = read(
        r#"
        [resolver]
        request_timeout_sec = 7
        [[resolver.host."docker.io".mirrors]]
        host = "127.0.0.1:65001"
        insecure = true
        [resolver.host."docker.io".mirrors.header]
        X-Registry = "https://index.docker.io"
        X-Many = ["a", "b"]
        [[resolver.host."docker.io".mirrors]]
        host = "mirror.example"
        request_timeout_sec = 3
        "#,
    )
    .config;
    let options = config.registry_options();
    let mirrors = &options.hosts["docker.io"].mirrors;
    assert_eq!((mirrors[0].host.as_str(), mirrors[0].insecure), ("127.0.0.1:65001", true));
    assert_eq!(mirrors[0].request_timeout, Some(Duration::from_secs(7)));
    assert_eq!(mirrors[0].headers.len(), 3);
    assert_eq!(mirrors[1].request_timeout, Some(Duration::from_secs(3)));
}

#[test]
fn the_budget_of_the_cache_has_sensible_watermarks() {
    let budget = read("[cache]\nmax_bytes = 1000\nlow_watermark = 0.5\n").config.cache.budget();
    assert_eq!((budget.max_bytes, budget.high, budget.low), (Some(1000), 0.9, 0.5));
    assert_eq!(read("[cache]\nmax_bytes = -1\n").config.cache.budget(), layer::CacheBudget::default());
}

#[test]
fn sessions_are_kept_unless_it_is_said_that_they_are_not() {
    let root = Path::new("/root");
    let config = read("").config.fuse_manager;
    assert!(config.enabled() && config.deadline() == Duration::from_secs(60));
    assert_eq!(config.options(root).address, Path::new("/root/keeper.sock"));
    let config =
        read("[fuse_manager]\naddress = \"/run/k.sock\"\npath = \"/bin/k\"\ndeadline_sec = 9\n").config;
    let options = config.fuse_manager.options(root);
    assert_eq!(
        (options.address.as_path(), options.program.as_path()),
        (Path::new("/run/k.sock"), Path::new("/bin/k"))
    );
    assert_eq!(options.arguments, ["keeper", "--address", "/run/k.sock", "--deadline", "9"]);
    assert!(!read("[fuse_manager]\nenable = false\n").config.fuse_manager.enabled());
}

#[test]
fn a_wrong_type_names_file_line_and_key() {
    let text = error("noprefetch = true\n[blob]\nmax_retries = \"x\"\n");
    assert!(text.starts_with("config.toml:3: blob.max_retries: "), "{text}");
    let text = error("noprefetch = = true\n");
    assert!(text.starts_with("config.toml:1: "), "{text}");
}

#[test]
fn keys_without_effect_and_unknown_ones_are_named_with_their_line() {
    let loaded = read(
        "prefetch_sise = 3\n[fuse]\npassthrough = true\n[blob]\nmax_retry = 3\nchunk_size = 4\nzzz = 1\n",
    );
    let expected = [
        ("config.toml:1: unknown key prefetch_sise", "prefetch_size?"),
        ("config.toml:2: fuse has no effect", ""),
        ("config.toml:5: unknown key blob.max_retry", "blob.max_retries?"),
        ("config.toml:6: blob.chunk_size has no effect", ""),
        ("config.toml:7: unknown key blob.zzz", ""),
    ];
    for (start, end) in expected {
        assert!(
            loaded.warnings.iter().any(|w| w.starts_with(start) && w.ends_with(end)),
            "{start}: {:?}",
            loaded.warnings
        );
    }
    assert_eq!(loaded.warnings.len(), expected.len());
}

#[test]
fn only_the_default_file_may_be_missing() {
    let path = Path::new("/nonexistent/config.toml");
    assert!(load(path, true).is_ok());
    assert!(load(path, false).unwrap_err().to_string().contains("/nonexistent/config.toml"));
}

#[test]
fn hosts_and_credentials_are_read_where_containerd_has_them() {
    let loaded = read(
        r#"
        ipfs = true
        [blob]
        valid_interval = 7
        force_single_range_mode = true
        [resolver]
        allow_link_local = true
        [registry]
        config_path = "/etc/containerd/certs.d::/etc/docker/certs.d"
        [registry.mirrors."docker.io"]
        endpoint = ["https://m.test/v2", "http://n.test"]
        [registry.configs."a.test".auth]
        username = "u"
        password = "topsecret"
        [registry.configs."a.test:5000".tls]
        ca_file = "/ca.pem"
        [kubeconfig_keychain]
        enable_keychain = true
        [kubelet_credential_provider]
        config_path = "/etc/kubelet/config.yaml"
        bin_dir = "/usr/libexec/kubelet"
        [cri_keychain]
        enable_keychain = true
        listen_path = "/run/cri.sock"
        persist = true
        "#,
    );
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.config;
    assert!(!format!("{config:?}").contains("topsecret"));
    let options = config.registry_options();
    assert_eq!(options.valid_interval, Duration::from_secs(7));
    assert!(options.force_single_range && options.allow_link_local && options.ipfs_path.is_some());
    assert_eq!(options.config_path, ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
    assert_eq!(options.cri.mirrors["docker.io"].len(), 2);
    let auth = options.cri.configs["a.test"].auth.as_ref().unwrap();
    assert_eq!((auth.username.as_str(), auth.password.expose()), ("u", "topsecret"));
    let tls = options.cri.configs["a.test:5000"].tls.as_ref().unwrap();
    assert_eq!((&tls.ca_file, &tls.cert_file), (&Some(PathBuf::from("/ca.pem")), &None));
    let cri = &config.cri_keychain;
    assert_eq!(cri.runtime(), Path::new("/run/containerd/containerd.sock"));
    assert_eq!(cri.expire_after(), Duration::from_secs(30 * 24 * 3600));
}

#[test]
fn layers_are_asked_after_only_if_that_is_wanted() {
    let interval = |blob: &str| read(&format!("[blob]\n{blob}\n")).config.check_interval();
    assert_eq!(interval(""), None);
    assert_eq!(interval("valid_interval = 0"), None);
    assert_eq!(interval("valid_interval = 9"), Some(Duration::from_secs(9)));
    assert_eq!(interval("valid_interval = 9\ncheck_always = true"), Some(Duration::ZERO));
}

#[test]
fn secrets_are_in_no_message() {
    for value in
        ["[\"topsecret\"]", "{ topsecret = 1 }", "topsecret", "\"topsecret", "\"topsecret\" topsecret"]
    {
        let text = error(&format!("[registry.configs.\"a.test\".auth]\npassword = {value}\n"));
        assert!(text.starts_with("config.toml:2: ") && !text.contains("topsecret"), "{text}");
    }
    assert!(!error("[registry.configs.\"a.test\".auth]\npassword = 12345678\n").contains("12345678"));
}
