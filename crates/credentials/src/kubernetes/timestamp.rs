//! Times as the Kubernetes API writes them (RFC 3339): `2026-02-28T12:00:00Z`.

use std::time::{Duration, SystemTime};

/// Reads a time since 1970; None if `text` is none. Fractions of a second are cut off.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, byte)| bytes.get(at) == Some(&byte))
        || !matches!(bytes.get(10)?, b'T' | b't')
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    let mut rest = text.get(19..)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let seconds = match rest {
        "Z" | "z" => local,
        _ => {
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            let offset = hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60;
            match rest.as_bytes().first()? {
                b'+' => local.checked_sub(offset)?,
                b'-' => local + offset,
                _ => return None,
            }
        }
    };
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Counts days in years that begin in March, so that the day of a leap year is the last one.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 153 days are five months of 31 and 30 days in turns; 719468 days are from March of year 0 to 1970.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_api() {
        #[track_caller]
        fn check(text: &str, want: Option<u64>) {
            assert_eq!(parse(text), want.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)), "{text}");
        }
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T23:59:59Z", Some(951_868_799));
        check("2026-03-01T12:30:00.123456Z", Some(1_772_368_200));
        check("2026-03-01T12:30:00+02:30", Some(1_772_359_200));
        check("2026-03-01T12:30:00-01:00", Some(1_772_371_800));
        for wrong in [
            "",
            "2026-03-01",
            "2026-13-01T00:00:00Z",
            "2026-03-01T12:30:00",
            "1969-12-31T00:00:00Z",
            "\u{e9}\u{e9}26-03-01T12:30:00Z",
        ] {
            check(wrong, None);
        }
    }
}
