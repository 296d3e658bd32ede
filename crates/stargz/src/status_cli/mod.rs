//! `stargz status`, `stargz top`, `stargz debug`: what a daemon says of itself.

pub mod args;
mod bundle;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

pub use bundle::run as debug;

use self::args::{Status as StatusFlags, Top};
use crate::control::Client;
use crate::watch::status::{Question, STATUS, Status};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Parts of a map when it is drawn, and when it is for a program.
const DRAWN: usize = 64;
const FOR_PROGRAMS: usize = 256;

fn connect(root: &Path) -> anyhow::Result<Client> {
    let client =
        Client::connect(root).with_context(|| format!("cannot ask the daemon in {}", root.display()))?;
    client.with_context(|| {
        format!("no daemon runs with its state in {}; --root names another directory", root.display())
    })
}

/// `stargz status`.
///
/// # Errors
/// No daemon answers.
pub fn status(flags: &StatusFlags) -> anyhow::Result<()> {
    let map = match (flags.map, flags.json) {
        (false, _) => 0,
        (true, true) => FOR_PROGRAMS,
        (true, false) => DRAWN,
    };
    let question = Question { only: flags.only.clone(), map };
    let status: Status = connect(&flags.root)?.ask(STATUS, question, PATIENCE)?;
    match flags.json {
        true => say(&serde_json::to_string_pretty(&status)?),
        false => say(table::whole(&status, std::io::stdout().is_terminal()).trim_end()),
    }
}

/// `stargz top`.
///
/// # Errors
/// No daemon answers.
pub fn top(flags: &Top) -> anyhow::Result<()> {
    let question = Question { only: flags.only.clone(), map: 0 };
    let mut client = connect(&flags.root)?;
    let live = std::io::stdout().is_terminal();
    loop {
        let mut status: Status = match client.ask(STATUS, &question, PATIENCE) {
            Ok(status) => status,
            // The daemon closes what is idle for half a minute, or has been started again.
            Err(_) => {
                client = connect(&flags.root)?;
                client.ask(STATUS, &question, PATIENCE)?
            }
        };
        // What is being fetched first, then what is incomplete.
        status
            .layers
            .sort_by(|a, b| b.rate.total_cmp(&a.rate).then(a.filled_percent.total_cmp(&b.filled_percent)));
        let text = table::whole(&status, live);
        if !live {
            return say(text.trim_end());
        }
        let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(24, |size| size.ws_row.max(5));
        let shown: Vec<&str> = text.lines().take(usize::from(rows) - 1).collect();
        // To the upper left, each line cleared to its end, and then the rest of the screen.
        say(&format!("\x1b[H{}\x1b[K\x1b[J", shown.join("\x1b[K\n")))?;
        std::thread::sleep(Duration::from_secs(flags.interval));
    }
}

/// Prints a text; that nobody reads it any more is no error.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
