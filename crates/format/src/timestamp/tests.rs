use proptest::prelude::*;

use super::*;

/// Writes a time by counting days one after the other: slow, and hard to get wrong.
fn rfc3339(time: Timestamp, zone_minutes: i64) -> String {
    let local = time.secs + zone_minutes * 60;
    let (mut days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let mut year = 1970;
    let length = |year| 365 + i64::from(is_leap(year));
    while days < 0 {
        year -= 1;
        days += length(year);
    }
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = if time.nanos == 0 { String::new() } else { format!(".{:09}", time.nanos) };
    let zone = match zone_minutes {
        0 => "Z".to_owned(),
        _ => {
            let sign = if zone_minutes < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", zone_minutes.abs() / 60, zone_minutes.abs() % 60)
        }
    };
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}", days + 1)
}

#[test]
fn known_times_are_read() {
    for (text, secs, nanos) in [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
        ("2001-09-09T01:46:40Z", 1_000_000_000, 0),
        ("2000-02-29T23:59:60Z", 0, 0),
        ("2038-01-19T03:14:08.123456789Z", 1 << 31, 123_456_789),
        ("2038-01-19T03:14:08.1234567899999Z", 1 << 31, 123_456_789),
        ("2024-02-29T12:00:00+05:30", 1_709_188_200, 0),
        ("2024-02-29T12:00:00-05:30", 1_709_227_800, 0),
        ("0000-01-01T00:00:00Z", -62_167_219_200, 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
        ("0001-01-01T00:00:00Z", 0, 0),
        ("0001-01-01T00:00:00.000000001Z", GO_ZERO, 1),
    ] {
        // RFC 3339 allows leap seconds; Linux time stamps have none.
        let expected =
            if text.contains(":60") { Err(ParseTimestampError) } else { Ok(Timestamp { secs, nanos }) };
        assert_eq!(text.parse(), expected, "{text}");
    }
}

#[test]
fn everything_else_is_refused() {
    for text in [
        "",
        "2024",
        "2024-02-29",
        "2024-02-29T12:00:00",
        "2024-02-29 12:00:00Z",
        "2024-02-29T12:00:00z",
        "2023-02-29T12:00:00Z",
        "1900-02-29T12:00:00Z",
        "2024-04-31T12:00:00Z",
        "2024-00-10T12:00:00Z",
        "2024-13-10T12:00:00Z",
        "2024-01-00T12:00:00Z",
        "2024-01-10T24:00:00Z",
        "2024-01-10T12:60:00Z",
        "2024-01-10T12:00:00.Z",
        "2024-01-10T12:00:00+24:00",
        "2024-01-10T12:00:00+0100",
        "2024-01-10T12:00:00ZZ",
        "10000-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "+024-01-10T12:00:00Z",
        "2024-01-10T12:00:0éZ",
    ] {
        assert_eq!(text.parse::<Timestamp>(), Err(ParseTimestampError), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        secs in -62_135_596_799..253_402_214_400_i64,
        nanos in prop_oneof![Just(0), 0..1_000_000_000_u32],
        zone in -1439..1440_i64,
    ) {
        let time = Timestamp { secs, nanos };
        let zone = if secs < -62_135_500_000 { 0 } else { zone };
        prop_assert_eq!(rfc3339(time, zone).parse(), Ok(time));
    }

    #[test]
    fn no_text_panics(text in "[0-9TZ:.+-]{0,40}", any in any::<String>()) {
        let _ = text.parse::<Timestamp>();
        let _ = any.parse::<Timestamp>();
    }
}
