use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<HostsToml, String> {
    parse(text, Path::new("/etc/certs.d/r.test"))
}

#[test]
fn a_whole_file_is_read() {
    let file = read(
        r#"
server = "https://registry-1.docker.io"
skip_verify = true

[host."https://z.test:5000"]
  capabilities = ["pull", "Resolve"]
  ca = "z.crt"
  client = [["one.cert", "/abs/one.key"], "both.pem"]
  dial_timeout = "1m30s"
[host."https://z.test:5000".header]
  x-one = "1"
  x-many = ["a", "b"]

[host."http://a.test/sub/"]
  capabilities = ["push"]
[host."a.test:80/x/v2"]
  client = "pair.pem"
  ca = ["one.crt", "two.crt"]
[host."https://b.test/own"]
  override_path = true
"#,
    )
    .unwrap();
    let addresses: Vec<_> = file
        .hosts
        .iter()
        .map(|host| host.address.as_ref().unwrap())
        .map(|address| (address.base.as_str(), address.path.as_str()))
        .collect();
    assert_eq!(
        addresses,
        [
            ("https://z.test:5000/", "/v2"),
            ("http://a.test/", "/sub/v2"),
            ("https://a.test:80/", "/x/v2"),
            ("https://b.test/", "/own")
        ],
        "in the order of the file"
    );
    let dir = Path::new("/etc/certs.d/r.test");
    let first = &file.hosts[0];
    assert_eq!(first.capabilities, Capabilities { pull: true, resolve: true });
    assert_eq!(first.ca, [dir.join("z.crt")]);
    assert_eq!(
        first.client,
        [(dir.join("one.cert"), Some("/abs/one.key".into())), (dir.join("both.pem"), None)]
    );
    assert_eq!(first.dial_timeout, Some(Duration::from_secs(90)));
    let headers: Vec<_> = first.headers.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(headers, ["x-many=a", "x-many=b", "x-one=1"]);
    assert_eq!(file.hosts[1].capabilities, Capabilities { pull: false, resolve: false });
    assert_eq!(file.hosts[2].client, [(dir.join("pair.pem"), None)]);
    assert_eq!(file.hosts[2].ca.len(), 2);
    assert!(file.server.skip_verify && !first.skip_verify);
    assert_eq!(file.server.address.unwrap().base.as_str(), "https://registry-1.docker.io/");
}

#[test]
fn an_empty_file_is_one_server_without_an_address() {
    let file = read("").unwrap();
    assert_eq!(file, HostsToml { hosts: Vec::new(), server: HostSection::default() });
    assert_eq!(read("unknown = 1\n[host.\"a.test\"]\nelse = 2").unwrap().hosts.len(), 1);
}

#[test]
fn what_cannot_be_meant_is_refused_without_repeating_it() {
    let rows = [
        ("server = 5", "line 1"),
        ("\n\nserver = \"topsecret", "line 3"),
        ("server = \"ftp://a.test\"", "server: it is not an HTTP address"),
        ("[host.\"https://u:topsecret@a.test\"]", "credentials in the address"),
        ("[host.\"https://a.test/?x=y\"]", "more than a path"),
        ("[host.\"https://\"]", "not an address"),
        ("[host.\"a.test\"]\ncapabilities = [\"fly\"]", "\"fly\" is not a capability"),
        ("[host.\"a.test\"]\nclient = [[\"a\",\"b\",\"c\"]]", "not a certificate and its key"),
        ("[host.\"a.test\"]\nclient = 7", "a path, or a list"),
        ("[host.\"a.test\"]\ndial_timeout = \"soon\"", "not a dial_timeout"),
        ("[host.\"a.test\"]\n[host.\"a.test\".header]\nx = 1", "a string or a list of strings"),
    ];
    for (text, reason) in rows {
        let error = read(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let many: String = (0..=MAX_HOSTS).map(|i| format!("[host.\"h{i}.test\"]\n")).collect();
    assert!(read(&many).unwrap_err().contains("more than"));
}

#[test]
fn durations_are_those_of_go() {
    let rows = [
        ("5s", Some(5000)),
        ("1m30s", Some(90_000)),
        ("1.5s", Some(1500)),
        ("300ms", Some(300)),
        ("1h", Some(3_600_000)),
        ("5", None),
        ("s", None),
        ("-5s", None),
        ("5 s", None),
        ("0s", None),
        ("1e3s", None),
        ("99999999999999999999999h", None),
    ];
    for (text, expected) in rows {
        assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
    }
}

proptest! {
    #[test]
    fn noise_is_survived(text in "[\\[\\]\"=.a-z0-9:/ \n,#'-]{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn the_order_of_the_file_is_kept(names in prop::collection::hash_set("[a-z]{1,8}\\.test", 0..20)) {
        let names: Vec<_> = names.into_iter().collect();
        let text: String = names.iter().map(|name| format!("[host.\"https://{name}\"]\nca = \"x\"\n")).collect();
        let hosts = read(&text).unwrap().hosts;
        let found: Vec<_> = hosts.iter().map(|h| h.address.as_ref().unwrap().base.host_str().unwrap()).collect();
        prop_assert_eq!(found, names);
    }
}
