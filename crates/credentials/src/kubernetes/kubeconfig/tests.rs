use super::*;

const GOOD: &str = r#"
apiVersion: v1
kind: Config
preferences: {}
current-context: node
contexts:
- {name: other, context: {cluster: other, user: other}}
- name: node
  context:
    cluster: here
    user: me
    namespace: ignored
clusters:
- name: here
  cluster:
    server: https://10.0.0.1:6443
    certificate-authority-data: Q0E=
users:
- name: me
  user:
    token: hunter2
"#;

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn load_text(text: &str) -> Result<Option<Cluster>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "config", text);
    load(&[path])
}

#[test]
fn the_current_context_is_resolved() {
    let cluster = load_text(GOOD).unwrap().unwrap();
    assert_eq!(cluster.server.as_str(), "https://10.0.0.1:6443/");
    assert_eq!(cluster.authorities.as_deref(), Some(&b"CA"[..]));
    assert_eq!(cluster.user.token.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{cluster:?}").contains("hunter2"));
    let proxied = GOOD.replace("server: ", "proxy-url: http://me:hunter2@proxy:3128\n    server: ");
    let cluster = load_text(&proxied).unwrap().unwrap();
    assert_eq!(cluster.proxy.as_ref().unwrap().expose(), "http://me:hunter2@proxy:3128/");
    assert!(!format!("{cluster:?}").contains("hunter2"));
}

#[test]
fn nothing_is_not_an_error() {
    assert!(load(&[PathBuf::from("/no/such/file")]).unwrap().is_none());
    assert!(load_text("").unwrap().is_none());
    assert!(load_text("apiVersion: v1\nkind: Config\nclusters: null\nusers: null\n").unwrap().is_none());
}

#[test]
fn what_is_wrong_is_named() {
    #[track_caller]
    fn check(from: &str, to: &str, want: &str) {
        let error = load_text(&GOOD.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
    }
    check("current-context: node", "current-context: node2", "no context \"node2\"");
    check("current-context: node", "current-context: \"\"", "no current-context");
    check("cluster: here\n", "cluster: there\n", "no cluster \"there\"");
    check("user: me\n", "user: you\n", "no user \"you\"");
    check("https://10", "ftp://10", "not an http(s) URL");
    check("https://10", "https://me:hunter2@10", "has a user in its URL");
    check("https://10.0.0.1:6443", "https://x\n    proxy-url: 'socks5://me:hunter2@p'", "proxy-url is not");
    check("Q0E=", "Q0E", "certificate-authority-data of \"here\" is not base64");
    check("token: hunter2", "token: [hunter2]", "not valid at line");
    check("token: hunter2", "client-key-data: aHVudGVyMg==", "go together");
    check("token: hunter2", "client-certificate: no/file", "does not exist");
    check("token: hunter2", "auth-provider: {name: gcp}", "auth-provider");
    check("token: hunter2", "as: admin", "impersonation");
    check("token: hunter2", "exec: {apiVersion: v9, command: x}", "apiVersion \"v9\"");
}

#[test]
fn files_count_as_one_and_paths_are_relative_to_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir_all(&a).unwrap();
    std::fs::create_dir_all(&b).unwrap();
    write(&b, "cert.pem", "CERT");
    write(&b, "key.pem", "KEY");
    write(&a, "ca.pem", "CA FILE");
    let first = write(
        &a,
        "config",
        "current-context: c\nclusters: [{name: here, cluster: {server: 'api:8080/sub', certificate-authority: ca.pem}}]\n",
    );
    let second = write(
        &b,
        "config",
        "current-context: ignored\ncontexts: [{name: c, context: {cluster: here, user: me}}]\n\
         clusters: [{name: here, cluster: {server: 'http://ignored'}}]\n\
         users: [{name: me, user: {client-certificate: cert.pem, client-key: ./key.pem, tokenFile: token, token: old, \
         exec: {apiVersion: client.authentication.k8s.io/v1, command: ./login, provideClusterInfo: true}}}]\n",
    );
    let cluster = load(&[first, PathBuf::from("/no/such/file"), second]).unwrap().unwrap();
    assert_eq!(cluster.server.as_str(), "http://api:8080/sub/");
    assert_eq!(cluster.authorities.as_deref(), Some(&b"CA FILE"[..]));
    assert_eq!(cluster.user.identity.as_ref().unwrap().expose(), "CERT\nKEY");
    assert_eq!(cluster.user.token_file.as_deref(), Some(b.join("token").as_path()));
    assert!(cluster.user.token.is_none());
    let exec = cluster.user.exec.as_ref().unwrap();
    assert_eq!(exec.program, b.join("./login"));
    assert_eq!(exec.cluster.as_ref().unwrap()["server"], "http://api:8080/sub");
    let files: Vec<_> = cluster.files.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(files, [a.join("ca.pem"), b.join("cert.pem"), b.join("./key.pem")]);
}
