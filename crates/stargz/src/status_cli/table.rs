//! A daemon's state for people.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cache_cli::human;
use crate::watch::status::{Layer, Status};

/// How full a part of a map looks, from empty to full.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
/// Digits of a digest that are shown.
const SHORT: usize = 12;

/// All of it.
pub fn whole(status: &Status, colour: bool) -> String {
    let mut text = head(status);
    text += &layers(&status.layers);
    for layer in &status.layers {
        if let Some(map) = &layer.map {
            text += &format!("{} {}\n", short(&layer.digest), draw(map));
        }
    }
    let failed: Vec<&Layer> = status.layers.iter().filter(|layer| layer.last_error.is_some()).collect();
    if !failed.is_empty() {
        text += &title("\nLast errors", colour);
        for layer in failed {
            if let Some(last) = &layer.last_error {
                text += &format!("{} {}: {}\n", short(&layer.digest), ago(last.at), last.error);
            }
        }
    }
    if !status.refused.is_empty() {
        text += &title("\nNot lazy, so pulled in full", colour);
        for refused in &status.refused {
            let times = if refused.times > 1 { format!(" ({} times)", refused.times) } else { String::new() };
            let (digest, image) = (short(&refused.digest), &refused.image);
            text += &format!("{digest} of {image}, {}{times}\n    {}\n", ago(refused.at), refused.reason);
        }
    }
    text
}

fn title(text: &str, colour: bool) -> String {
    if colour { format!("\x1b[1m{text}\x1b[0m\n") } else { format!("{text}\n") }
}

fn head(status: &Status) -> String {
    let daemon = &status.daemon;
    let limit = daemon.cache_limit.map_or_else(String::new, |limit| format!(" of {}", human(limit)));
    let slow = daemon.wait_p99_seconds.map_or_else(String::new, |p99| format!(", 99% within {}", time(p99)));
    let mut text = format!(
        "stargz {}, process {}, up {}; backend {} on Linux {}\n\
         on disk: {} layers, {}{limit}; fetched {}, served {}\n\
         reads: {} from disk, {} waited for {} together{slow}, {} failed\n",
        daemon.version,
        daemon.pid,
        time(daemon.uptime_seconds as f64),
        if daemon.backend_reason.is_empty() { &daemon.backend } else { &daemon.backend_reason },
        daemon.kernel,
        daemon.cache_layers,
        human(daemon.cache_bytes),
        human(daemon.fetched),
        human(daemon.served),
        daemon.reads,
        daemon.waits,
        time(daemon.stall_seconds),
        daemon.failed,
    );
    let mut list = |what: &str, numbers: &std::collections::BTreeMap<String, u64>| {
        let some = numbers.iter().filter(|(_, number)| **number > 0);
        let some: Vec<String> = some.map(|(name, number)| format!("{name} {number}")).collect();
        if !some.is_empty() {
            text += &format!("{what}: {}\n", some.join(", "));
        }
    };
    list("on their way (spans)", &daemon.in_flight);
    list("asked for again", &daemon.retries);
    if daemon.verification_failures > 0 {
        text += &format!("bytes without their digest, thrown away: {} times\n", daemon.verification_failures);
    }
    text + "\n"
}

fn layers(layers: &[Layer]) -> String {
    if layers.is_empty() {
        return "no layers are mounted\n".to_owned();
    }
    let mut rows = vec![
        ["LAYER", "FORMAT", "SIZE", "FILLED", "RATE", "STALLED", "USED BY", "SHOWN BY", "IMAGE"]
            .map(str::to_owned),
    ];
    for layer in layers {
        let rate = if layer.rate >= 1.0 { format!("{}/s", human(layer.rate as u64)) } else { "-".to_owned() };
        let stalled = if layer.waits == 0 { "-".to_owned() } else { time(layer.stall_seconds) };
        rows.push([
            short(&layer.digest).to_owned(),
            layer.format.clone(),
            human(layer.size),
            // Rounded down: 100% is complete.
            format!("{:.1}%", (layer.filled_percent * 10.0).floor() / 10.0),
            rate,
            stalled,
            layer.users.to_string(),
            layer.backend.clone(),
            layer.image.clone(),
        ]);
    }
    let mut widths = [0; 9];
    for row in &rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The first digits of a digest.
fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..SHORT).unwrap_or(hex)
}

fn draw(map: &[f64]) -> String {
    let shade = |part: &f64| {
        // Only what is full looks full, and only what is empty looks empty.
        let step = match *part {
            part if part >= 1.0 => 4,
            part if part <= 0.0 => 0,
            part => 1 + (part * 3.0) as usize,
        };
        SHADES.get(step).copied().unwrap_or('█')
    };
    map.iter().map(shade).collect()
}

/// A time for people.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 2.0 * 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{} ago", time(now.saturating_sub(at) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shows_full_only_what_is_full() {
        assert_eq!(draw(&[0.0, 0.001, 0.5, 0.999, 1.0]), "·░▒▓█");
    }

    #[test]
    fn times_are_short_for_people() {
        let shown = [0.004, 1.0, 119.0, 600.0, 7200.0, 1e6].map(time);
        assert_eq!(shown, ["4 ms", "1.0 s", "119.0 s", "10 min", "2 h", "12 days"]);
    }
}
