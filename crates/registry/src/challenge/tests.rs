use proptest::prelude::*;

use super::*;

fn brief(header: &str) -> String {
    let one = |challenge: &Challenge| {
        let params: Vec<_> = challenge.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}[{}]", challenge.scheme, params.join(";"))
    };
    parse(header).iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn reads_what_servers_send() {
    let rows = [
        (
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            "bearer[realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:a/b:pull,push]",
        ),
        (r#"Basic realm="Registry Realm""#, "basic[realm=Registry Realm]"),
        (r#"BASIC REALM = "x" , bearer Realm= y"#, "basic[realm=x] bearer[realm=y]"),
        (r#"Bearer realm=https://a.test/t?x=1,service=s"#, "bearer[realm=https://a.test/t?x=1;service=s]"),
        (r#"Negotiate, Basic realm="a\"b\\c""#, r#"negotiate[] basic[realm=a"b\c]"#),
        ("Basic", "basic[]"),
        ("NTLM abc==, Basic realm=x", "ntlm[abc=] basic[realm=x]"),
    ];
    for (header, expected) in rows {
        assert_eq!(brief(header), expected, "{header}");
    }
    assert_eq!(parse(rows[0].0)[0].param("service"), Some("registry.docker.io"));
    assert_eq!(parse(rows[0].0)[0].param("missing"), None);
}

#[test]
fn survives_hostile_headers() {
    let rows = [
        ("", ""),
        (",,, ,", ""),
        ("\"\"\"", ""),
        ("Bearer realm=\"never closed", "bearer[realm=never closed]"),
        ("Bearer realm=\"x\\", "bearer[realm=x]"),
        ("Bearer =x", "bearer[] x[]"),
        ("Bearer realm=", "bearer[realm=]"),
        ("ä ö Basic realm=é", "basic[realm=é]"),
    ];
    for (header, expected) in rows {
        assert_eq!(brief(header), expected, "{header}");
    }
    assert_eq!(parse(&"a,".repeat(10_000)).len(), MAX_CHALLENGES);
    let many = format!("Bearer {}", "a=b,".repeat(10_000));
    assert_eq!(parse(&many)[0].params.len(), MAX_PARAMS);
}

proptest! {
    #[test]
    fn never_panics(header in "\\PC{0,120}") {
        parse(&header);
    }

    #[test]
    fn never_panics_on_what_is_almost_right(header in "(Bearer|Basic| |,|=|\"|\\\\|realm|ä){0,40}") {
        parse(&header);
    }
}
