//! Log lines: one JSON object each with `level`, `msg` and `time`, as scripts around stargz-snapshotter expect them;
//! for people on a terminal, plain text.

use std::fmt;
use std::io::IsTerminal as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Levels by the names that users have in their unit files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer looks at.
    Debug,
    /// What an operator looks at.
    Info,
    /// What an operator should act upon.
    #[value(alias = "warning")]
    Warn,
    /// Failures.
    Error,
    /// As error.
    Fatal,
    /// As error.
    Panic,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Trace => LevelFilter::TRACE,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Fatal | LogLevel::Panic => LevelFilter::ERROR,
        }
    }
}

/// The crates of this project.
const OURS: [&str; 7] = ["erofs", "format", "layer", "mount", "registry", "snapshotter", "stargz"];

/// Sends log lines to standard error: JSON for a daemon, text when somebody watches.
pub fn init(level: LogLevel) {
    let level = LevelFilter::from(level);
    // The HTTP and gRPC libraries' own chatter is of no use to an operator.
    let others = level.min(LevelFilter::WARN);
    let targets =
        OURS.iter().fold(Targets::new().with_default(others), |all, ours| all.with_target(*ours, level));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = tracing_subscriber::registry();
    let result = if std::io::stderr().is_terminal() {
        lines.with(layer.with_target(false).with_filter(targets)).try_init()
    } else {
        lines.with(layer.event_format(JsonLine).with_filter(targets)).try_init()
    };
    debug_assert!(result.is_ok(), "logging is set up once");
}

struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        event.record(&mut Fields(&mut line));
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        line.insert("level".to_owned(), level.into());
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        line.insert("time".to_owned(), time.into());
        writeln!(out, "{}", Value::Object(line))
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
