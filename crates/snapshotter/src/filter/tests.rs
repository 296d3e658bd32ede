use std::time::SystemTime;

use proptest::prelude::*;

use super::{Filters, MAX_FILTER, MAX_FILTERS, MAX_REGEXES};
use crate::store::{Info, Kind};

fn info(name: &str, parent: &str, kind: Kind, labels: &[(&str, &str)]) -> Info {
    Info {
        name: name.to_owned(),
        parent: parent.to_owned(),
        kind,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn corpus() -> Vec<Info> {
    vec![
        info("base", "", Kind::Committed, &[("containerd.io/snapshot.ref", "sha256:aa"), ("foo", "true")]),
        info("top", "base", Kind::Committed, &[("containerd.io/snapshot.ref", "sha256:bb")]),
        info("run", "top", Kind::Active, &[("a b", "x, y"), (r#"q"\"#, "1"), ("dotted.key", "v-1.2")]),
        info("look", "top", Kind::View, &[]),
    ]
}

/// Names of what matches, or the message.
fn list(filters: &[&str]) -> Result<String, String> {
    let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let filters = Filters::parse(&filters).map_err(|error| error.to_string())?;
    let names: Vec<_> =
        corpus().into_iter().filter(|info| filters.matches(info)).map(|info| info.name).collect();
    Ok(names.join(" "))
}

#[track_caller]
fn check(filter: &str, expected: &str) {
    assert_eq!(list(&[filter]).as_deref(), Ok(expected), "{filter}");
}

#[track_caller]
fn check_error(filter: &str, expected: &str) {
    let error = list(&[filter]).expect_err(filter);
    assert!(error.contains(expected), "{filter}: {error}");
}

#[test]
fn no_filter_and_an_empty_one_match_everything() {
    assert_eq!(list(&[]).unwrap(), "base top run look");
    check("", "base top run look");
}

#[test]
fn fields_and_operators() {
    check("name==top", "top");
    check("name!=top", "base run look");
    check("kind==active", "run");
    check("kind==view", "look");
    check("kind==committed,parent==base", "top");
    check("parent==\"\"", "base");
    check("name", "base top run look");
    check("parent", "base top run look");
    check("unknown", "");
    check("unknown==x", "");
    check("unknown!=x", "base top run look");
    check("labels.foo", "base");
    check("labels.foo==true", "base");
    check("labels.foo!=true", "top run look");
    check("labels", "");
    check("name.ignored==top", "top");
}

#[test]
fn what_containerd_asks_to_find_a_remote_snapshot() {
    check(r#"labels."containerd.io/snapshot.ref"==sha256:bb,parent=="base""#, "top");
    check(r#"labels."containerd.io/snapshot.ref"==sha256:aa,parent=="""#, "base");
    check(r#"labels."containerd.io/snapshot.ref"==sha256:bb,parent=="other""#, "");
}

#[test]
fn several_filters_are_alternatives() {
    assert_eq!(list(&["name==base", "kind==view"]).unwrap(), "base look");
    assert_eq!(list(&["name==nobody", ""]).unwrap(), "base top run look");
}

#[test]
fn quoting() {
    check(r#"labels."a b"=="x, y""#, "run");
    check(r#"labels."q\"\\"==1"#, "run");
    check("labels.dotted.key==v-1.2", "run");
    check(r#"labels."dotted".key==v-1.2"#, "run");
    check(r#""name"=="\x74\157\u0070""#, "top");
    check(r#"name=="\xc3\xa9""#, "");
    check(r#"name=="\ud800""#, "");
    check(r#"name=="\U0001F600""#, "");
}

#[test]
fn white_space_is_skipped_before_tokens_only() {
    check(" name == top", "top");
    check_error("name==top ,kind", "unexpected ' '");
    check_error("name==top x", "unexpected ' '");
}

#[test]
fn values_run_to_the_next_comma_or_space() {
    check("name==top==", "");
    check("name==a\"b", "");
    check("labels.foo==true,name==base", "base");
}

#[test]
fn regular_expressions_search() {
    check("name~=^(top|run)$", "top run");
    check("name~=o", "top look");
    check("name~=/[abo]{2}/", "base look");
    check("name~=|^r.n$|", "run");
    check(r#"name~="^lo+k$""#, "look");
    check("labels.foo~=^$", "top run look");
    check(r"name~=/^\\w{3}$/", "top run");
}

#[test]
fn mistakes_are_named_with_their_place() {
    check_error("name==foo,", "expected a field");
    check_error("labels.", "expected a field");
    check_error(".name", "expected a field");
    check_error("?", "expected a field");
    check_error("name~=,id", "expected a regular expression");
    check_error("name==", "expected a value");
    check_error("name==.x", "expected a value");
    check_error("name=x", "unsupported operator \"=\"");
    check_error("name===x", "unsupported operator \"===\"");
    check_error("name top", "expected an operator");
    check_error("labels.ns/key==value", "not closed");
    check_error("labels.key==/value", "not closed");
    check_error("labels.key==/value/", "only double quotes");
    check_error("labels.|foo|==x", "only double quotes");
    check_error("name==\"a\nb\"", "not closed");
    check_error(r#"name=="\q""#, "illegal escape");
    check_error(r#"name=="\400""#, "illegal escape");
    check_error(r#"name=="\U00110000""#, "illegal escape");
    check_error(r#"name=="\xff""#, "not utf-8");
    check_error("name==\"a\"\"b\"", "unexpected '\"'");
    check_error("name==\0", "null");
    check_error("name~=(", "not a regular expression");
    check_error("name==é,?", r#""name==é," >>> "?""#);
}

#[test]
fn hostile_sizes_are_refused() {
    check_error(&format!("name=={}", "x".repeat(MAX_FILTER)), "bytes, more than");
    assert!(list(&vec!["name"; MAX_FILTERS + 1]).unwrap_err().contains("filters given"));
    check_error(&vec!["name~=x"; MAX_REGEXES + 1].join(","), "regular expressions");
    let many = vec!["name~=x"; MAX_REGEXES].join(",");
    assert!(list(&[&many, &many]).unwrap_err().contains("regular expressions"));
    check_error("name~=/((((a{100}){100}){100}){100})/", "not a regular expression");
    check_error(&format!("name~={}a{}", "(".repeat(500), ")".repeat(500)), "not a regular expression");
    // Linear in time: a backtracking matcher would not come back.
    check(&format!("name~=^{}{}$", "o?".repeat(100), "o".repeat(100)), "");
}

proptest! {
    #[test]
    fn parsing_never_panics(filter in "\\PC*") {
        let _ = list(&[&filter]);
    }

    #[test]
    fn parsing_near_misses_never_panics(
        filter in "(name|labels|[.,=!~ ]|\"|\\\\|/|\\||[xuU0-7a-z]|\u{0}|é|\n|\\(|\\{9)*"
    ) {
        let _ = list(&[&filter]);
    }

    #[test]
    fn any_value_can_be_asked_for(name in "\\PC{0,20}") {
        let quoted = name.replace('\\', r"\\").replace('"', r#"\""#);
        let filters = Filters::parse(&[format!("name==\"{quoted}\"")]).unwrap();
        prop_assert!(filters.matches(&info(&name, "", Kind::View, &[])));
        let other = format!("{name}x");
        prop_assert!(!filters.matches(&info(&other, "", Kind::View, &[])));
    }
}
