//! YAML files of Kubernetes' tools, of which JSON is a part.

use serde::de::DeserializeOwned;

/// Parses one document.
///
/// # Errors
/// Where it is wrong. Not how: the parser's words may quote the text, which can hold secrets.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // What expands is written by programs, rarely by people: a few anchors are enough.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_alias_expansions_per_anchor: 1_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
        Some(at) => format!("is not valid at line {}, column {}", at.line(), at.column()),
        None => "is not valid".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn json_is_yaml_and_errors_quote_nothing() {
        type Map = BTreeMap<String, String>;
        let want: Map = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(parse::<Map>("a: b\n").unwrap(), want);
        assert_eq!(parse::<Map>("# remark\n---\na: \"b\"\n").unwrap(), want);
        assert_eq!(parse::<Map>("{\n\t\"a\": \"b\"\n}").unwrap(), want);
        let error = parse::<Map>("a: b\nhunter2: [hunter2\n").unwrap_err();
        assert!(error.contains("line") && !error.contains("hunter2"), "{error}");
        let error = parse::<BTreeMap<String, u8>>("token: hunter2\n").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn expansions_are_bounded() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let before = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(","));
        }
        assert!(parse::<serde_json::Value>(&bomb).is_err());
    }
}
