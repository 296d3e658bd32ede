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
