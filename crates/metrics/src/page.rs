//! The text format of Prometheus, version 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::fmt::Write as _;

use crate::Snapshot;

/// The content type of a [`Page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// As the format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole one.
    Whole(u64),
    /// Another one.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

/// What one scrape is answered with.
#[derive(Debug, Default)]
pub struct Page(String);

/// Samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'a str,
}

impl Page {
    /// Begins the samples of one name, which must be a name of the format and given once.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        debug_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        put(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
        Family { page: &mut self.0, name }
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds one sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        self.line("", labels, None, value.into());
        self
    }

    /// Adds a histogram with bounds from 2^`from` to 2^`to`, in units that are `unit` of the shown ones.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        snapshot: &Snapshot,
        (from, to): (u32, u32),
        unit: f64,
    ) -> &mut Self {
        for (bound, count) in snapshot.cumulative(from, to) {
            let bound = bound as f64 * unit;
            self.line("_bucket", labels, Some(&bound.to_string()), count.into());
        }
        self.line("_bucket", labels, Some("+Inf"), snapshot.count().into());
        self.line("_sum", labels, None, (snapshot.sum() as f64 * unit).into());
        self.line("_count", labels, None, snapshot.count().into());
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: Value) {
        put(self.page, format_args!("{}{suffix}", self.name));
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            self.page.push(before);
            before = ',';
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            put(self.page, format_args!("{name}=\"{value}\""));
        }
        if before == ',' {
            self.page.push('}');
        }
        match value {
            Value::Whole(value) => put(self.page, format_args!(" {value}\n")),
            Value::Real(value) => put(self.page, format_args!(" {value}\n")),
        }
    }
}

/// Strings take everything.
fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Histogram;

    #[test]
    fn labels_are_escaped_and_histograms_whole() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "one\nline")
            .sample(&[("p", "a\"b\\c\nd")], 3_u64)
            .sample(&[], 0.5);
        let histogram = Histogram::default();
        [1, 3, 900].into_iter().for_each(|value| histogram.observe(value));
        page.family("t_seconds", Kind::Histogram, "h").histogram(
            &[("o", "x")],
            &histogram.snapshot(),
            (1, 2),
            1e-3,
        );
        assert_eq!(
            page.finish(),
            "# HELP a_total one\\nline\n# TYPE a_total counter\na_total{p=\"a\\\"b\\\\c\\nd\"} 3\na_total 0.5\n\
             # HELP t_seconds h\n# TYPE t_seconds histogram\n\
             t_seconds_bucket{o=\"x\",le=\"0.002\"} 1\nt_seconds_bucket{o=\"x\",le=\"0.004\"} 2\n\
             t_seconds_bucket{o=\"x\",le=\"+Inf\"} 3\nt_seconds_sum{o=\"x\"} 0.904\nt_seconds_count{o=\"x\"} 3\n"
        );
    }
}
