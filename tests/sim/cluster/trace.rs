//! A readable account of one run, kept only when a single seed is replayed.

use std::cell::RefCell;

thread_local! {
    static LINES: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

/// Lines shown of a run that failed, unless RINGCORE_LINES says otherwise.
const SHOWN: usize = 120;

struct Line {
    at_ns: u64,
    /// None: of concern to every key.
    key: Option<Vec<u8>>,
    text: String,
}

/// Keeps an account from now on.
pub(crate) fn begin() {
    LINES.with(|lines| *lines.borrow_mut() = Some(Vec::new()));
}

/// Adds a line, if an account is kept.
pub(crate) fn line(at_ns: u64, key: Option<&[u8]>, text: impl FnOnce() -> String) {
    LINES.with(|lines| {
        if let Some(lines) = &mut *lines.borrow_mut() {
            lines.push(Line { at_ns, key: key.map(<[u8]>::to_vec), text: text() });
        }
    });
}

/// Prints the last lines that concern a key (None: all of them), and keeps no account any more.
pub(crate) fn print(key: Option<&[u8]>) {
    let lines = LINES.with(|lines| lines.borrow_mut().take()).unwrap_or_default();
    let concerns = |line: &&Line| key.is_none() || line.key.is_none() || line.key.as_deref() == key;
    let shown = std::env::var("RINGCORE_LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(SHOWN);
    let lines: Vec<&Line> = lines.iter().filter(concerns).collect();
    for line in &lines[lines.len().saturating_sub(shown)..] {
        println!("{:>14.6} {}", line.at_ns as f64 / 1e9, line.text);
    }
}
