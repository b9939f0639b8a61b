//! Words for the eye and back: durations, sizes, bytes that may not be text, rows in columns. Integers throughout.

use std::time::Duration;

/// Reads `250ms`, `60s`, `5m`, `12h`, `7d`. A bare number is refused: its unit would be a guess.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a whole number and a unit: 250ms, 60s, 5m, 12h, 7d".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number before the unit, as in 60s".to_owned())?;
    let ms = number.checked_mul(ms_per_unit).ok_or_else(|| "is longer than can be counted".to_owned())?;
    Ok(Duration::from_millis(ms))
}

/// As [`parse_duration`], but zero makes no sense.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        span => Ok(span),
    }
}

/// The two largest units: `3d 4h`, `59m 58s`, `250ms`. Rounded down.
pub(super) fn show_ms(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m {}s", seconds % 60),
        3_600..86_400 => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A number of bytes with one decimal of its unit: `1.5 MiB`. Rounded down.
pub(super) fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|&(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = u128::from(bytes) * 10 >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Bytes on one line, whatever they are: text as it is, but control characters, backslashes and what is not UTF-8
/// escaped, so that a value can neither break a line nor command the terminal.
pub(super) fn show(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hexadecimal of either case; an even number of digits.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| format!("{text:?} is not hexadecimal: write two digits a byte"))
}

/// Columns as wide as their widest cell, two blanks apart, no blanks at the end of a line.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("250ms", 250), ("60s", 60_000), ("5m", 300_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "60", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert!(parse_span("0ms").is_err());
    }

    #[test]
    fn durations_and_sizes_are_shown_in_their_largest_units() {
        for (ms, shown) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (61_999, "1m 1s"),
            (3_600_000, "1h 0m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(show_ms(ms), shown);
        }
        for (bytes, shown) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(show_bytes(bytes), shown);
        }
    }

    #[test]
    fn bytes_are_shown_on_one_line_without_control_characters() {
        assert_eq!(show("plain text, größer".as_bytes()), "plain text, größer");
        assert_eq!(show(b"a\tb\nc\\d"), "a\\tb\\nc\\\\d");
        assert_eq!(show(b"\x1b[31m\xff\x00"), "\\u{1b}[31m\\xff\\u{0}");
    }

    #[test]
    fn hexadecimal_reads_back() {
        assert_eq!(unhex(&hex(&[0, 10, 255])), Ok(vec![0, 10, 255]));
        assert_eq!(unhex("AbCd"), Ok(vec![0xab, 0xcd]));
        assert_eq!(unhex(""), Ok(vec![]));
        for text in ["a", "abc", "zz", "+1", "ä"] {
            assert!(unhex(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let rows = [row(&["NAME", "N"]), row(&["größer", "1"]), row(&["b", ""])];
        assert_eq!(columns(&rows), ["NAME    N", "größer  1", "b"]);
    }
}
