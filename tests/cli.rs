//! The node's program as its user meets it: arguments, variables, files in; text and exit codes out.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test's way to fail, in its helpers too")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ringcore::program::command::command_line;
use ringcore::program::setting::{Fallback, SETTINGS};
use serde_json::Value;

/// The program with nothing of the outer environment that it listens to.
fn ringcore(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcore"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    ringcore(arguments).output().unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A path for one test, absent at its beginning.
fn fresh(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    match fs::remove_dir_all(&path) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
    path
}

fn file(name: &str, text: &str) -> String {
    let dir = fresh(name);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("ringcore.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn refusals_end_with_their_code_and_a_fix() {
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["start", "--listen", "0.0.0.0:7717"],
            78,
            "error: --listen 0.0.0.0:7717: other machines can reach",
        ),
        (&["start", "--bootstrap", "--join", "localhost:1"], 78, "--bootstrap asks for the opposite"),
        (&["start", "--replication", "0"], 78, "error: --replication 0: a key has 1 to 15 replicas"),
        (&["start", "--zone", "a b"], 78, "error: --zone a b: has characters"),
        (&["start", "--cores", "100000"], 78, "error: --cores 100000: a node has 1 to 256 cores"),
        (&["start", "--config", "/nonexistent.toml"], 78, "/nonexistent.toml cannot be read"),
        (&["start", "--replication", "three"], 2, "error: --replication three: is not a whole number"),
        (&["start", "--listen", "nowhere"], 2, "error: --listen nowhere: is not an IP address with a port"),
        (&["start", "--durability", "maybe"], 2, "invalid value 'maybe'"),
        (&["start", "--nonsense"], 2, "unexpected argument"),
        (&["start", "extra"], 2, "unexpected argument"),
        (&["check", "--replication", "0"], 78, "--replication 0"),
        (&["config", "print", "--replication", "0"], 78, "--replication 0"),
        (&["dev", "--nodes", "10"], 78, "error: --nodes 10: a cluster of 1 to 9 nodes can be run"),
        (&["generate", "kubernetes"], 2, "invalid value 'kubernetes'"),
        (&["nonsense"], 2, "unrecognized subcommand"),
        (&[], 2, "Usage: ringcore"),
    ];
    for (arguments, code, words) in cases {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let fix = *code != 78 || stderr.lines().any(|line| line.starts_with("  fix: "));
        assert!(fix, "{arguments:?}: {stderr}");
    }
}

#[test]
fn variables_and_files_are_refused_with_78_and_their_place() {
    let output = ringcore(&["start"]).env("RINGCORE_REPLICATION", "three").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: RINGCORE_REPLICATION=three: "));
    for (line, words) in [
        ("lisen = \"127.0.0.1:1\"", "3: unknown key \"lisen\""),
        ("replication = 0", "3: replication = 0: a key has"),
        ("name = 7", "3: name is an integer, not a string"),
        ("name =", "3: not TOML: "),
    ] {
        let path = file("refused-file", &format!("# one\n\n{line}\n"));
        for arguments in [["start", "--config", &path], ["check", "-c", &path]] {
            let output = run(&arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{line}: {stderr}");
            assert!(stderr.starts_with(&format!("error: {path}:{words}")), "{stderr}");
        }
    }
}

#[test]
fn print_says_where_each_value_comes_from() {
    let path =
        file("origins", "zone = \"z\"\nname = \"from-file\"\nreplication = 5\n[limits]\nttl_max = \"1d\"\n");
    let mut command = ringcore(&["config", "print", "--origin", "--name", "from-flag"]);
    command.envs([("RINGCORE_CONFIG", path.as_str()), ("RINGCORE_REPLICATION", "2")]);
    command.env("RINGCORE_LIMITS_KEY_MAX", "1KiB");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let has = |line: &str, origin: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once("  "));
        assert!(
            lines.any(|(left, right)| left == line && right.trim() == format!("# {origin}")),
            "{line}: {text}"
        );
    };
    has("name = \"from-flag\"", "flag");
    has("replication = 2", "environment");
    has("zone = \"z\"", &format!("{path}:1"));
    has("ttl_max = \"1d\"", &format!("{path}:5"));
    has("key_max = \"1KiB\"", "environment");
    has("durability = \"flushed\"", "default");
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let given = [
        "--name",
        "n1",
        "--cores",
        "1",
        "--no-pin",
        "--join",
        "localhost:1,[::1]:2",
        "--admin-listen",
        "off",
    ];
    let printed = succeed(&[&["config", "print"], &given[..]].concat());
    let again = succeed(&["config", "print", "--config", &file("print", &printed)]);
    assert_eq!(printed, again);
    assert!(printed.contains("join = [\"localhost:1\", \"[::1]:2\"]\n"), "{printed}");
}

#[test]
fn the_example_is_the_documented_one() {
    let text = succeed(&["config", "example"]);
    assert_eq!(
        text,
        include_str!("cli/example.toml"),
        "if meant: ringcore config example > tests/cli/example.toml"
    );
}

#[test]
fn the_example_changes_nothing_and_neither_do_its_defaults() {
    let example = succeed(&["config", "example"]);
    let defaults = succeed(&["config", "print"]);
    assert_eq!(succeed(&["config", "print", "--config", &file("example", &example)]), defaults);
    let mut uncommented = example;
    for row in &SETTINGS {
        let line = format!("\n#{} = ", row.key);
        assert!(uncommented.contains(&line), "{} is missing", row.key);
        if matches!(row.fallback, Fallback::Text(_)) {
            uncommented = uncommented.replace(&line, &format!("\n{} = ", row.key));
        }
    }
    assert_eq!(succeed(&["config", "print", "--config", &file("uncommented", &uncommented)]), defaults);
}

#[test]
fn the_example_values_of_settings_without_default_are_valid() {
    let example = succeed(&["config", "example"]);
    let sample = |key: &str| {
        let line = example.lines().find(|line| line.starts_with(&format!("#{key} = "))).unwrap();
        line.trim_start_matches('#').to_owned()
    };
    let keys = ["name", "advertise", "join", "cores"];
    let lines = keys.map(sample).join("\n") + "\nno_pin = true\n";
    let printed = succeed(&["config", "print", "--config", &file("samples", &lines)]);
    assert!(keys.iter().all(|key| printed.contains(&sample(key))), "{printed}");
}

#[test]
fn help_tells_of_every_flag_and_its_variable() {
    for command in [&["start"][..], &["check"], &["config", "print"]] {
        let help = succeed(&[command, &["--help"]].concat());
        let words: Vec<_> = help.split_whitespace().collect();
        let has = |word: &str| {
            words.iter().any(|found| found.trim_end_matches(']').split('[').next() == Some(word))
        };
        assert!(has("--config") && has("RINGCORE_CONFIG"), "{command:?}");
        for row in &SETTINGS {
            if let Some(flag) = row.flag() {
                assert!(has(&format!("--{flag}")), "{command:?}: --{flag}");
                assert!(has(&row.variable()), "{command:?}: {}", row.variable());
            }
        }
    }
}

#[test]
fn every_command_and_argument_has_help() {
    fn look(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {}", argument.get_id());
        }
        command.get_subcommands().for_each(|inner| look(inner, &path));
    }
    command_line().debug_assert();
    look(&command_line(), "");
}

#[test]
fn generated_files_hold_what_they_are_for() {
    let seccomp: Value = serde_json::from_str(&succeed(&["generate", "seccomp"])).unwrap();
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<_> = seccomp["syscalls"].as_array().unwrap().iter().collect();
    let allowed = allowed.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null());
    let allowed: Vec<_> = allowed.flat_map(|rule| rule["names"].as_array().unwrap()).collect();
    for name in
        ["io_uring_setup", "io_uring_enter", "io_uring_register", "execve", "fdatasync", "sched_setaffinity"]
    {
        assert!(allowed.iter().any(|found| *found == name), "{name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "setns", "clone", "reboot", "keyctl"] {
        assert!(!allowed.iter().any(|found| *found == name), "{name}");
    }
    let unit = succeed(&["generate", "systemd"]);
    for line in ["LimitMEMLOCK=infinity", "RestartPreventExitStatus=2 74 77 78", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    assert!(unit.lines().all(|line| line.is_empty() || line.starts_with(['#', '[']) || line.contains('=')));
    let sysctl = succeed(&["generate", "sysctl"]);
    assert!(sysctl.lines().any(|line| line == "-kernel.io_uring_disabled = 0"));
    let shaped = |line: &str| line.is_empty() || line.starts_with('#') || line.split_once(" = ").is_some();
    assert!(sysctl.lines().all(shaped), "{sysctl}");
}

#[test]
fn the_unit_starts_the_program_with_arguments_that_it_has() {
    let unit = succeed(&["generate", "systemd"]);
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/ringcore ")).unwrap();
    assert!(
        command_line().try_get_matches_from(["ringcore"].into_iter().chain(line.split(' '))).is_ok(),
        "{line}"
    );
}

#[test]
fn shells_get_completions_that_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&["completions", shell]);
        assert!(script.contains("peer-listen") && script.contains("completions"), "{shell}");
    }
}

#[test]
fn the_readme_names_every_command_and_shows_the_script_of_dev() {
    let readme = include_str!("../README.md");
    for command in command_line().get_subcommands() {
        let name = command.get_name();
        assert!(readme.contains(&format!("`{name}")), "{name}");
    }
    assert!(readme.contains(include_str!("../src/assets/hello.py")), "the snippet is that of `ringcore dev`");
    for row in &SETTINGS {
        if let (Some(flag), Fallback::Text(text)) = (row.flag(), row.fallback) {
            let line = readme.lines().find(|line| line.starts_with(&format!("| `--{flag}` |")));
            assert!(line.is_none_or(|line| line.contains(&format!("`{text}`"))), "--{flag}: {line:?}");
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = fresh("man");
    let written = succeed(&["man", dir.to_str().unwrap()]);
    let count = written.lines().count();
    assert!(count > 10, "{written}");
    for page in written.lines() {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains(".TH ringcore"), "{page}: {text}");
    }
    let start = fs::read_to_string(dir.join("ringcore-start.1")).unwrap();
    assert!(start.contains("RINGCORE_DATA_DIR"), "{start}");
}

#[test]
fn check_gives_its_verdict_as_json_and_leaves_nothing_behind() {
    let dir = fresh("check");
    fs::create_dir_all(&dir).unwrap();
    let output = run(&["check", "-o", "json", "--allow-any-fs", "--data-dir", dir.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code().map(i64::from), report["exit"].as_i64(), "{report}");
    let findings = report["findings"].as_array().unwrap();
    for name in
        ["kernel", "io_uring", "memlock", "open files", "CPUs", "clock source", "file system", "disk latency"]
    {
        assert!(findings.iter().any(|finding| finding["check"] == name), "{name}: {report}");
    }
    let latency = findings.iter().find(|finding| finding["check"] == "disk latency").unwrap();
    assert!(latency["figures"]["p99_us"].is_u64(), "{report}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn check_refuses_a_data_directory_that_cannot_be() {
    let path = file("check-file", "");
    let output = run(&["check", "--data-dir", &path]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let output = run(&["check", "--data-dir", "/proc/ringcore"]);
    assert!(matches!(output.status.code(), Some(77 | 78)), "{output:?}");
}

#[test]
fn a_node_that_cannot_start_makes_dev_fail_with_its_code() {
    let dir = fresh("dev");
    let output = run(&["dev", "--dir", dir.to_str().unwrap(), "--", "--replication", "0"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("error: --replication 0: a key has"), "{stderr}");
    assert!(dir.join("n1").is_dir());
}

#[test]
fn diagnostics_are_json_away_from_a_terminal() {
    // The data directory lies where nobody can make one, so that the node ends by itself.
    let arguments = ["start", "--bootstrap", "--durability", "none", "--data-dir", "/proc/ringcore"];
    let output = run(&arguments);
    assert_ne!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let warnings: Vec<_> = lines.filter(|line| line["level"] == "WARN").collect();
    assert!(warnings.iter().any(|line| line["message"].as_str().unwrap().contains("durability")), "{stderr}");
    let output = run(&[&arguments[..], &["--log-format", "text"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(" WARN ") && !stderr.contains('\u{1b}'), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = ringcore(&["config", "example"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn the_version_is_the_package_s() {
    let expected = format!("ringcore {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(succeed(&["version"]), expected);
    assert_eq!(succeed(&["--version"]), expected);
}
