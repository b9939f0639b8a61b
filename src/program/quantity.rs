//! Sizes and durations as people write them: `64MiB`, `250ms`. Integers throughout; knows no setting.

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
}
