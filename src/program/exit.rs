//! How a program ends: its exit code, and the sentence on stderr that says why and what to do. Knows no particular
//! reason.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// An exit code of the node's program. The unit of systemd relies on them: see `generate systemd`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const OK: Exit = Exit(0);
    /// The rest: a port taken, a directory locked. Trying again may help.
    pub const FAILURE: Exit = Exit(1);
    /// Arguments that do not parse.
    pub const USAGE: Exit = Exit(2);
    /// An I/O error or damaged data (EX_IOERR).
    pub const IO: Exit = Exit(74);
    /// io_uring or a permission is refused (EX_NOPERM).
    pub const NOT_PERMITTED: Exit = Exit(77);
    /// A setting that cannot be (EX_CONFIG).
    pub const SETTING: Exit = Exit(78);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

/// Why a program does not go on. Shown as `error: …` and one indented line for each way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The code to end with.
    pub exit: Exit,
    /// One sentence; it names what is at fault.
    pub what: String,
    /// What to do about it, one line each.
    pub fixes: Vec<String>,
}

impl Refusal {
    /// A refusal that offers no way out yet.
    pub fn new(exit: Exit, what: impl Into<String>) -> Refusal {
        Refusal { exit, what: what.into(), fixes: Vec::new() }
    }

    /// With one more way out.
    pub fn fix(mut self, fix: impl Into<String>) -> Refusal {
        self.fixes.push(fix.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        self.fixes.iter().try_for_each(|fix| write!(f, "\n  {fix}"))
    }
}

impl std::error::Error for Refusal {}

/// Shows refusals on stderr and gives the code to end with: that of the first, but arguments that do not parse go
/// before settings that cannot be.
///
/// # Panics
/// If there is none.
pub fn refuse(refusals: &[Refusal]) -> Exit {
    for refusal in refusals {
        complain(refusal);
    }
    let usage = refusals.iter().find(|refusal| refusal.exit == Exit::USAGE);
    usage.or(refusals.first()).expect("somebody refused").exit
}

/// A line on stderr. One that cannot be written is lost: there is nobody left to tell.
pub fn complain(line: impl fmt::Display) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Writes a text to stdout. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::OK,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::OK,
        Err(error) => refuse(&[Refusal::new(Exit::IO, format!("cannot write to standard output: {error}"))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixes_are_indented_under_the_sentence() {
        let refusal = Refusal::new(Exit::SETTING, "no").fix("do this").fix("or that");
        assert_eq!(refusal.to_string(), "error: no\n  do this\n  or that");
    }

    #[test]
    fn arguments_that_do_not_parse_decide_the_code() {
        let (setting, usage) = (Refusal::new(Exit::SETTING, "a"), Refusal::new(Exit::USAGE, "b"));
        assert_eq!(refuse(&[setting.clone(), usage]), Exit::USAGE);
        assert_eq!(refuse(&[setting, Refusal::new(Exit::IO, "c")]), Exit::SETTING);
    }
}
