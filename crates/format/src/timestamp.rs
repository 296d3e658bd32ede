//! Points in time as a TOC writes them: RFC 3339.

use std::str::FromStr;

/// A point in time: seconds since 1970-01-01T00:00:00Z and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999, always counted forward.
    pub nanos: u32,
}

/// A text is not an RFC 3339 time of the years 0000 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time")]
pub struct ParseTimestampError;

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Parses `2006-01-02T15:04:05[.fraction](Z|±hh:mm)`. Digits beyond nanoseconds are cut.
    ///
    /// Go's zero time, `0001-01-01T00:00:00Z`, is how "no time" is written, and becomes the epoch.
    fn from_str(text: &str) -> Result<Timestamp, ParseTimestampError> {
        let mut input = Input(text.as_bytes());
        let year = input.number(4)?;
        input.byte(b'-')?;
        let month = input.number(2)?;
        input.byte(b'-')?;
        let day = input.number(2)?;
        input.byte(b'T')?;
        let clock = input.clock()?;
        input.byte(b':')?;
        let second = input.number(2)?;
        let nanos = input.fraction()?;
        let zone = input.zone()?;
        if !input.0.is_empty()
            || !(1..=12).contains(&month)
            || day < 1
            || day > days_in(year, month)
            || second > 59
        {
            return Err(ParseTimestampError);
        }
        let secs = days_since_epoch(year, month, day) * 86_400 + clock + second - zone;
        if secs == GO_ZERO && nanos == 0 {
            return Ok(Timestamp::default());
        }
        Ok(Timestamp { secs, nanos })
    }
}

/// 0001-01-01T00:00:00Z.
const GO_ZERO: i64 = -62_135_596_800;

/// What is left to parse.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self, expected: u8) -> Result<(), ParseTimestampError> {
        self.0 = self.0.strip_prefix(&[expected]).ok_or(ParseTimestampError)?;
        Ok(())
    }

    /// Exactly `digits` decimal digits.
    fn number(&mut self, digits: usize) -> Result<i64, ParseTimestampError> {
        let (number, rest) = self.0.split_at_checked(digits).ok_or(ParseTimestampError)?;
        if !number.iter().all(u8::is_ascii_digit) {
            return Err(ParseTimestampError);
        }
        self.0 = rest;
        Ok(number.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    }

    /// `hh:mm`, in seconds.
    fn clock(&mut self) -> Result<i64, ParseTimestampError> {
        let hour = self.number(2)?;
        self.byte(b':')?;
        let minute = self.number(2)?;
        if hour > 23 || minute > 59 {
            return Err(ParseTimestampError);
        }
        Ok(hour * 3600 + minute * 60)
    }

    /// Nothing, or `.` and at least one digit, in nanoseconds.
    fn fraction(&mut self) -> Result<u32, ParseTimestampError> {
        if self.byte(b'.').is_err() {
            return Ok(0);
        }
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, rest) = self.0.split_at(digits);
        if fraction.is_empty() {
            return Err(ParseTimestampError);
        }
        self.0 = rest;
        let padded = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        Ok(padded.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
    }

    /// `Z` or an offset, in seconds east of Greenwich.
    fn zone(&mut self) -> Result<i64, ParseTimestampError> {
        if self.byte(b'Z').is_ok() {
            return Ok(0);
        }
        let sign = if self.byte(b'-').is_ok() { -1 } else { 1 };
        if sign == 1 {
            self.byte(b'+')?;
        }
        Ok(sign * self.clock()?)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Counted in years that begin in March, so that the leap day is the last one.
    let years = if month > 2 { year } else { year - 1 };
    let months = (month + 9) % 12;
    let day_of_year = (153 * months + 2) / 5 + day - 1;
    let leap_days = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    years * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests;
