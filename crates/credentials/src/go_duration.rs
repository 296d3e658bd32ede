//! Durations as Go writes them: `6h`, `1h30m`, `1.5s`, `250ms`, `0`.

use std::time::Duration;

/// Longest duration that is kept apart from longer ones: ten years.
const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads a duration; None if `text` is none, or a negative one. Long ones are cut to ten years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        let part = Duration::try_from_secs_f64(part.min(MAX.as_secs_f64())).ok()?;
        total = (total + part).min(MAX);
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes() {
        #[track_caller]
        fn check(text: &str, want: Option<Duration>) {
            assert_eq!(parse(text), want, "{text:?}");
        }
        check("0", Some(Duration::ZERO));
        check("0s", Some(Duration::ZERO));
        check("6h", Some(Duration::from_secs(6 * 3600)));
        check("1h30m5s", Some(Duration::from_secs(5405)));
        check("1.5s", Some(Duration::from_millis(1500)));
        check("250ms", Some(Duration::from_millis(250)));
        check("999999999999999h", Some(MAX));
        for wrong in ["", "5", "s", "-5s", "5 s", "5d", ".s", "1.2.3s", "5s5"] {
            check(wrong, None);
        }
    }
}
