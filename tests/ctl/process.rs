//! Running ringctl as a program: what it printed where, and how it ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a command did.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// ringctl with an environment that asks for nothing.
pub(crate) fn ringctl(endpoints: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
    for variable in ["RINGCTL_LEVEL", "RINGCTL_TIMEOUT", "RINGCTL_OUTPUT"] {
        command.env_remove(variable);
    }
    command.env("RINGCTL_ENDPOINTS", endpoints).args(words).stdin(Stdio::null());
    command
}

/// Runs a command to its end; both streams are pipes.
pub(crate) fn ran(mut command: Command) -> Ran {
    let done = command.output().expect("the program starts");
    Ran {
        exit: done.status.code().expect("it ends by itself"),
        out: String::from_utf8(done.stdout).expect("the tests' values are text"),
        err: String::from_utf8(done.stderr).expect("messages are text"),
    }
}

/// A path of this test's own below the build's directory, gone with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Nothing is there yet.
    pub(crate) fn new(name: &str) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ctl-{name}-{}-{count}", std::process::id());
        Scratch(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// A file with this text.
    pub(crate) fn file(text: impl AsRef<[u8]>) -> Scratch {
        let scratch = Scratch::new("file");
        std::fs::write(&scratch.0, text).expect("the build's directory takes a file");
        scratch
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a path of text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whether it is a file, a directory, or was never made.
        std::fs::remove_file(&self.0).or_else(|_| std::fs::remove_dir_all(&self.0)).ok();
    }
}
