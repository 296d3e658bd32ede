//! Log lines: one JSON object each with `level`, `msg` and `time`, as scripts around stargz-snapshotter expect them;
//! for people on a terminal, plain text.
//!
//! Lines go to standard error; under systemd straight to the journal, with their fields as fields of the journal and the
//! same text as the message. Warnings that repeat are written a few times and then counted. The last lines are kept in
//! memory for `stargz debug bundle`.

mod journal;
mod line;
mod repeats;
mod ring;

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::journal::Journal;
use self::line::Line;
use self::repeats::{Repeats, Verdict};
use self::ring::Ring;

/// Levels by the names that users have in their unit files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer looks at.
    Debug,
    /// What an operator looks at.
    Info,
    /// What an operator should act upon.
    #[value(alias = "warning")]
    #[serde(alias = "warning")]
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

/// What lines look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, else JSON
    #[default]
    Auto,
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// What there is for the whole process.
struct Global {
    ring: Ring,
    repeats: Mutex<Repeats>,
    set_level: Box<dyn Fn(Targets) -> bool + Send + Sync>,
}

static GLOBAL: OnceLock<Global> = OnceLock::new();

/// The libraries whose own chatter is of no use to an operator; everything else here is ours.
const OTHERS: [&str; 11] =
    ["h2", "hyper", "hyper_util", "reqwest", "rustls", "tonic", "tower", "mio", "tokio", "want", "redb"];

fn targets(level: LogLevel) -> Targets {
    let level = LevelFilter::from(level);
    OTHERS.iter().fold(Targets::new().with_default(level), |all, other| {
        all.with_target(*other, level.min(LevelFilter::WARN))
    })
}

/// Sends log lines where they belong.
pub fn init(level: LogLevel, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let terminal = std::io::stderr().is_terminal();
    let lines = Lines {
        json: format == LogFormat::Json || (format == LogFormat::Auto && !terminal),
        colour: terminal,
        journal: Journal::of_stderr(),
    };
    let global = Global {
        ring: Ring::default(),
        repeats: Mutex::default(),
        set_level: Box::new(move |targets| handle.reload(targets).is_ok()),
    };
    let first = GLOBAL.set(global).is_ok();
    let result = tracing_subscriber::registry().with(filter).with(lines).try_init();
    debug_assert!(first && result.is_ok(), "logging is set up once");
}

/// Logs this much from now on. False before [`init`].
pub fn set_level(level: LogLevel) -> bool {
    GLOBAL.get().is_some_and(|global| (global.set_level)(targets(level)))
}

/// The last lines, oldest first.
pub fn recent() -> Vec<String> {
    GLOBAL.get().map_or_else(Vec::new, |global| global.ring.lines())
}

/// Says how often lines were left out that repeat and have stopped to. To be called now and then.
pub fn settle() {
    let Some(global) = GLOBAL.get() else { return };
    let over = global.repeats.lock().unwrap_or_else(PoisonError::into_inner).over(Instant::now());
    for (message, times) in over {
        tracing::warn!(times, "not written again: {message}");
    }
}

#[derive(Debug)]
struct Lines {
    json: bool,
    colour: bool,
    journal: Option<Journal>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(global) = GLOBAL.get() else { return };
        let mut line = Line::of(event);
        // An event each of which matters is on a lower level.
        if *event.metadata().level() <= Level::WARN {
            let key = line.likeness();
            let verdict = global.repeats.lock().unwrap_or_else(PoisonError::into_inner).see(
                key,
                line.message(),
                Instant::now(),
            );
            match verdict {
                Verdict::Write => {}
                Verdict::WriteAfter(left_out) => line.put("left_out", left_out.into()),
                Verdict::LeaveOut => return,
            }
        }
        let json = line.json();
        let text = if self.json { json.clone() } else { line.text(self.colour) };
        global.ring.push(json);
        if self.journal.as_ref().is_some_and(|journal| journal.send(&line, &text).is_ok()) {
            return;
        }
        // There is nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}
