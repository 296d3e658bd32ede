//! How far a conversion is: one line that changes on a terminal, a line for each layer elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use convert::image::{Progress, Step};
use format::Digest;

use super::short;
use crate::cache_cli::human;

/// Between two drawings of the line.
const PAUSE: Duration = Duration::from_millis(100);

/// Shows progress on standard error.
pub struct Display {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    started: Instant,
    drawn: Option<Instant>,
    /// By layer: its size, how much of it was read, and whether it is done.
    layers: HashMap<Digest, (u64, u64, bool)>,
}

impl Display {
    /// Knows by itself whether there is a terminal.
    pub fn new() -> Display {
        let state = State { started: Instant::now(), drawn: None, layers: HashMap::new() };
        Display { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Takes in what a conversion tells.
    pub fn note(&self, progress: &Progress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = state.layers.entry(progress.layer).or_insert((progress.size, 0, false));
        match &progress.step {
            Step::Building(builder::Progress::Reading { source }) => layer.1 = layer.1.max(source / 2),
            Step::Building(builder::Progress::Writing { done, total }) => {
                let half = progress.size / 2;
                layer.1 = layer.1.max(half + half * done / (*total).max(1));
            }
            Step::Copying { done } => layer.1 = *done,
            Step::Done(action) => {
                (layer.1, layer.2) = (progress.size, true);
                if !self.terminal {
                    eprintln!("{}  {}  {}", short(&progress.layer), human(progress.size), describe(action));
                }
            }
            _ => {}
        }
        let due = state.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE);
        if self.terminal && due {
            state.drawn = Some(Instant::now());
            eprint!("\r\x1b[K{}", state.line());
            let _ = std::io::stderr().flush(); // a line that is not seen is not missed
        }
    }

    /// Clears the line.
    pub fn finish(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

impl State {
    fn line(&self) -> String {
        let done: u64 = self.layers.values().map(|layer| layer.1).sum();
        let total: u64 = self.layers.values().map(|layer| layer.0).sum();
        let finished = self.layers.values().filter(|layer| layer.2).count();
        text(done, total, (finished, self.layers.len()), self.started.elapsed())
    }
}

fn text(done: u64, total: u64, (finished, layers): (usize, usize), elapsed: Duration) -> String {
    const WIDTH: u64 = 24;
    let filled = (done * WIDTH / total.max(1)).min(WIDTH) as usize;
    let bar: String = "#".repeat(filled) + &"-".repeat(WIDTH as usize - filled);
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
    let left = if rate > 0.0 { total.saturating_sub(done) as f64 / rate } else { 0.0 };
    let left = left as u64;
    format!(
        "[{bar}] {} of {}  {}/s  {:02}:{:02} left  {finished} of {layers} layers",
        human(done),
        human(total),
        human(rate as u64),
        left / 60,
        left % 60
    )
}

/// What became of a layer, in a few words.
pub fn describe(action: &convert::image::Action) -> String {
    use convert::image::Action;
    match action {
        Action::Converted => "converted".to_owned(),
        Action::Reused => "reused".to_owned(),
        Action::Kept(reason) => format!("kept as it was: {reason}"),
        Action::Elsewhere => "not with the image".to_owned(),
        _ => "done".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_a_rate_and_an_end() {
        assert_eq!(
            text(1 << 20, 4 << 20, (1, 3), Duration::from_secs(2)),
            "[######------------------] 1.0 MiB of 4.0 MiB  512 KiB/s  00:06 left  1 of 3 layers"
        );
        assert!(text(0, 0, (0, 0), Duration::ZERO).contains("00:00 left"));
    }
}
