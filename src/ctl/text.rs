//! Words for the eye and back: durations, and bytes that may not be text. Integers throughout.

use crate::program::quantity::parse_duration_ms;
use std::time::Duration;

/// Reads a duration that is longer than nothing.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    match parse_duration_ms(text)? {
        0 => Err("must be longer than nothing".to_owned()),
        ms => Ok(Duration::from_millis(ms)),
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

/// `1 record`, `2 records`.
pub(super) fn show_records(count: u64) -> String {
    format!("{count} {}", if count == 1 { "record" } else { "records" })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_longer_than_nothing() {
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_span("0s").is_err());
        assert!(parse_span("60").is_err());
    }

    #[test]
    fn durations_are_shown_in_their_two_largest_units() {
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
}
