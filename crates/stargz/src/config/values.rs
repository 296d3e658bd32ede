//! The single values of a file, to see what has changed from one to the next.

use std::collections::BTreeMap;

use super::reference::{self, When};

/// The text of each value by its key, tables apart. Holds secrets: to be compared, never to be shown.
pub type Values = BTreeMap<String, String>;

/// The values of a text that was parsed before.
pub(super) fn of(text: &str) -> Values {
    let mut values = Values::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        put(&mut values, "", &toml::Value::Table(table));
    }
    values
}

fn put(values: &mut Values, name: &str, value: &toml::Value) {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(part, value)| put(values, &below(part), value)),
        // The tables of an array count as one value under the name of each of their keys.
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (key, value) in items.iter().filter_map(toml::Value::as_table).flatten() {
                *values.entry(below(key)).or_default() += &format!("{value};");
            }
        }
        value => {
            values.insert(name.to_owned(), value.to_string());
        }
    }
}

/// What differs between two files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that a reload can change.
    pub live: Vec<String>,
    /// Keys that need the daemon to be started again.
    pub at_start: Vec<String>,
}

/// Compares two files.
pub fn changes(before: &Values, after: &Values) -> Changes {
    let mut changes = Changes::default();
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
        match reference::find(key).map(|known| known.when) {
            Some(When::Live) => changes.live.push(key.clone()),
            Some(When::Start) => changes.at_start.push(key.clone()),
            // Nothing depends on them.
            Some(When::Never) | None => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_named_with_when_it_takes_effect() {
        let before = of("noprefetch = true\n[cache]\nmax_bytes = 1\n[fuse]\npassthrough = true\n");
        let after = of("[cache]\nmax_bytes = 2\n[[resolver.host.\"a.test:5000\".mirrors]]\nhost = \"b\"\n");
        let found = changes(&before, &after);
        assert_eq!(found.live, ["noprefetch", "resolver.host.a.test:5000.mirrors.host"]);
        assert_eq!(found.at_start, ["cache.max_bytes"]);
        assert_eq!(changes(&after, &after), Changes::default());
    }

    #[test]
    fn the_password_of_a_host_is_a_key_of_its_table() {
        let after = of("[registry.configs.\"a.test\".auth]\npassword = \"x\"\n");
        assert_eq!(changes(&Values::new(), &after).live, ["registry.configs.a.test.auth.password"]);
    }
}
