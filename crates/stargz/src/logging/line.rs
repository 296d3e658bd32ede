//! One event, as text.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// Its fields, message and level.
#[derive(Debug)]
pub struct Line {
    level: Level,
    fields: Map<String, Value>,
    callsite: u64,
}

impl Line {
    pub fn of(event: &Event<'_>) -> Line {
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        let mut time = String::new();
        // Only a clock before 1970 fails.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        fields.insert("time".to_owned(), time.into());
        let mut hasher = DefaultHasher::new();
        event.metadata().callsite().hash(&mut hasher);
        Line { level: *event.metadata().level(), fields, callsite: hasher.finish() }
    }

    pub fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    pub fn message(&self) -> &str {
        self.fields.get("msg").and_then(Value::as_str).unwrap_or_default()
    }

    /// The fields but message and time.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        let all = self.fields.iter().map(|(name, value)| (name.as_str(), value));
        all.filter(|(name, _)| !matches!(*name, "msg" | "time"))
    }

    /// The same for lines that say the same of the same things, whatever their numbers are.
    pub fn likeness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.callsite.hash(&mut hasher);
        for (name, value) in self.fields().chain([("msg", &Value::from(self.message()))]) {
            if let Value::String(text) = value {
                (name, text).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// As logrus calls it.
    fn level_name(&self) -> &'static str {
        match self.level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        }
    }

    /// As syslog(3) numbers it.
    pub fn priority(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        }
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        let mut line = self.fields.clone();
        line.insert("level".to_owned(), self.level_name().into());
        Value::Object(line).to_string()
    }

    /// For people.
    pub fn text(&self, colour: bool) -> String {
        let time = self.fields.get("time").and_then(Value::as_str).unwrap_or_default();
        let (on, off) = match self.level {
            _ if !colour => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            Level::DEBUG | Level::TRACE => ("\x1b[2m", "\x1b[0m"),
        };
        let mut text = format!("{time} {on}{:>7}{off} {}", self.level_name(), self.message());
        for (name, value) in self.fields() {
            let plain = value.as_str().filter(|text| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
            });
            // Strings take everything.
            let _ = match plain {
                Some(plain) => write!(text, " {name}={plain}"),
                None => write!(text, " {name}={value}"),
            };
        }
        text
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "msg",
            name => name.strip_prefix("r#").unwrap_or(name),
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
pub fn example(message: &str, fields: &[(&str, Value)]) -> Line {
    let mut line = Line { level: Level::WARN, fields: Map::new(), callsite: 1 };
    line.put("msg", message.into());
    line.put("time", "2026-01-01T00:00:00Z".into());
    fields.iter().for_each(|(name, value)| line.put(name, value.clone()));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_quotes_only_what_needs_it() {
        let line = example(
            "read failed",
            &[("layer", "sha256:ab".into()), ("error", "no route".into()), ("len", 5.into())],
        );
        assert_eq!(
            line.text(false),
            "2026-01-01T00:00:00Z warning read failed error=\"no route\" layer=sha256:ab len=5"
        );
        assert!(line.json().contains("\"level\":\"warning\""));
    }

    #[test]
    fn lines_that_differ_in_numbers_only_are_alike() {
        let line = |offset: u64, error: &str| {
            example("read failed", &[("offset", offset.into()), ("error", error.into())]).likeness()
        };
        assert_eq!(line(1, "a"), line(2, "a"));
        assert_ne!(line(1, "a"), line(1, "b"));
    }
}
