//! Sizes, durations and times as people write them: `64MiB`, `250ms`. Integers throughout; knows no setting.

/// Reads a number of bytes: plain, or with B, KiB, MiB, GiB or TiB behind it.
///
/// # Errors
/// Words for people: what is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("is not a size: write bytes, or KiB, MiB, GiB, TiB, as in 64MiB".into()),
    };
    scale(number, factor).ok_or_else(|| "is not a size: write a whole number, as in 64MiB".into())
}

/// A number of bytes with the largest unit that divides it, so that it reads back as the same number.
pub fn format_bytes(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// A number of bytes for the eye, rounded down to the largest unit below it: `79 GiB`.
pub fn roughly_bytes(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{} {unit}", bytes / factor),
        None => format!("{bytes} B"),
    }
}

/// Reads a duration in milliseconds: a whole number and ms, s, m, h or d. A bare number is refused: it would be a guess.
///
/// # Errors
/// Words for people: what is wrong with the text.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("is not a duration: write a whole number and ms, s, m, h or d, as in 250ms".into()),
    };
    scale(number, factor).ok_or_else(|| "is not a duration: write a whole number, as in 250ms".into())
}

/// Milliseconds with the largest unit that divides them, so that they read back as the same number.
pub fn format_duration_ms(ms: u64) -> String {
    let units = [("d", 86_400_000u64), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.iter().find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", ms / factor),
        None => format!("{ms}ms"),
    }
}

/// Milliseconds since 1970 as `2026-11-22 16:04:05.123 UTC`, in the calendar that is used today.
pub fn format_utc_ms(ms: u64) -> String {
    /// Days of 400 years, which repeat.
    const DAYS_OF_ERA: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01. Years that begin in March have the leap day at their end.
    const DAYS_BEFORE_1970: u64 = 719_468;
    let (days, of_day) = (ms / 86_400_000 + DAYS_BEFORE_1970, ms % 86_400_000);
    let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_of_year) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month_of_year <= 2);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, milliseconds) = (of_day / 1_000 % 60, of_day % 1_000);
    format!(
        "{year:04}-{month_of_year:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03} UTC"
    )
}

fn split(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (&text[..digits], text[digits..].trim_start())
}

fn scale(number: &str, factor: u64) -> Option<u64> {
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases =
            [("0", 0), ("17", 17), ("1B", 1), ("4KiB", 4_096), ("64 MiB", 64 << 20), ("2TiB", 2 << 40)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1MB", "1.5GiB", "-1", "1kib", "16777216TiB", "99999999999999999999", "1 2"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in
            [("250ms", 250), ("10s", 10_000), ("1m", 60_000), ("2h", 7_200_000), ("3650d", 315_360_000_000)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "1y", "-1s", "300000000000d"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_formatted_reads_back() {
        for shift in 0..64 {
            for near in [0u64, 1, 999] {
                let number = (1u64 << shift).wrapping_add(near);
                assert_eq!(parse_bytes(&format_bytes(number)), Ok(number));
                assert_eq!(parse_duration_ms(&format_duration_ms(number)), Ok(number));
            }
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // date -u -d @SECONDS
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_400, "2000-02-29 00:00:00.000 UTC"),
            (951_868_799, "2000-02-29 23:59:59.000 UTC"),
            (951_868_800, "2000-03-01 00:00:00.000 UTC"),
            (1_795_363_445, "2026-11-22 16:04:05.000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00.000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59.000 UTC"),
        ] {
            assert_eq!(format_utc_ms(seconds * 1_000), text);
        }
        assert!(format_utc_ms(1_234).ends_with(":01.234 UTC"));
    }
}
