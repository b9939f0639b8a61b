//! The source text under test: which module may name which, what every file must say, how long it may be. Each rule is
//! also tried on a text that breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src/`, each with those it may name. The order of the map in `lib.rs`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("storage", &["types"]),
    ("cluster", &["types"]),
    ("replication", &["types", "storage", "cluster"]),
    ("node", &["types", "storage", "cluster", "replication"]),
    ("runtime", &["types", "storage", "cluster", "replication", "node", "rpc", "admin"]),
    ("rpc", &["types", "storage", "cluster", "replication"]),
    ("admin", &["types", "rpc"]),
    ("client", &["types", "cluster", "rpc"]),
    ("program", &["types", "storage", "cluster", "node", "runtime", "rpc", "client"]),
    ("ctl", &["types", "rpc", "client", "program"]),
];

/// Crates that are named in one place only.
const NAMED_ONLY_IN: &[(&str, &[&str])] = &[
    ("glommio", &["src/runtime/", "tests/"]),
    ("tonic", &["src/rpc/", "src/client/", "bench-harness/src/plain.rs", "tests/"]),
    (
        "prost",
        &[
            "src/rpc/",
            "src/client/",
            "bench-harness/src/plain.rs",
            "bench-harness/src/client/",
            "bench-harness/src/micro.rs",
            "build.rs",
            "tests/",
        ],
    ),
    ("hyper", &["src/rpc/", "src/admin/", "src/client/error.rs", "bench-harness/src/plain.rs", "tests/"]),
    ("tokio", &["src/client/", "src/ctl/", "src/bin/ringctl.rs", "bench-harness/src/verify.rs", "tests/"]),
];

/// What the pure part never names: each would be a decision that a seed cannot repeat.
const PURE: &[&str] = &["types", "storage", "cluster", "replication", "node"];
const IMPURE: &[&str] =
    &["std::", "SystemTime", "Instant::", "thread_rng", "HashMap<", "HashSet<", "f32", "f64"];

const LINES_MAX: usize = 900;
const BANNED: &[&str] = &["TODO", "FIXME", "XXX", "unimplemented!", "todo!(", "for now", "hack"];

fn sources(root: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let relative =
                    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the root").to_path_buf();
                found.push((relative, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{root} holds no source");
    found
}

/// Lines of code: comments and the test module at the end left out.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
        .filter(|line| !line.trim().is_empty())
}

fn folder(path: &Path) -> Option<&str> {
    let mut parts = path.iter().map(|part| part.to_str().expect("UTF-8 names"));
    (parts.next() == Some("src")).then(|| parts.next()).flatten()
}

fn direction_breaks(path: &Path, text: &str) -> Vec<String> {
    let Some((own, allowed)) = MAY_USE.iter().find(|(name, _)| folder(path) == Some(name)) else {
        return Vec::new();
    };
    let names = |line: &str, other: &str| {
        ["crate::", "ringcore::"].iter().any(|root| line.contains(&format!("{root}{other}::")))
    };
    code(text)
        .flat_map(|line| {
            MAY_USE
                .iter()
                .filter(|(other, _)| other != own && !allowed.contains(other) && names(line, other))
                .map(|(other, _)| format!("{}: {own} may not name {other}: {line}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn crate_breaks(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display().to_string();
    NAMED_ONLY_IN
        .iter()
        .filter(|(name, places)| {
            !places.iter().any(|place| shown.starts_with(place))
                && code(text).any(|line| line.contains(&format!("{name}::")))
        })
        .map(|(name, _)| format!("{shown}: names {name}"))
        .collect()
}

fn purity_breaks(path: &Path, text: &str) -> Vec<String> {
    // An oracle is compiled for tests only.
    if path.ends_with("oracle.rs") || !folder(path).is_some_and(|name| PURE.contains(&name)) {
        return Vec::new();
    }
    IMPURE
        .iter()
        .filter(|word| code(text).any(|line| line.contains(*word)))
        .map(|word| format!("{}: the pure part names {word}", path.display()))
        .collect()
}

fn form_breaks(path: &Path, text: &str) -> Vec<String> {
    let mut breaks = Vec::new();
    if !text.starts_with("//! ") {
        breaks.push(format!("{}: line 1 does not say what the file is for", path.display()));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        breaks.push(format!("{}: {lines} lines; more than one noun?", path.display()));
    }
    for word in BANNED.iter().filter(|word| !path.ends_with("tidy.rs") && text.contains(**word)) {
        breaks.push(format!("{}: says {word}", path.display()));
    }
    breaks
}

fn all_breaks(rule: fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    ["src", "tests", "bench-harness/src"]
        .iter()
        .flat_map(|root| sources(root))
        .flat_map(|(path, text)| rule(&path, &text))
        .collect()
}

#[test]
fn imports_follow_the_direction_of_the_map() {
    let bad = direction_breaks(Path::new("src/storage/x.rs"), "use crate::cluster::ring::Ring;");
    assert_eq!(bad.len(), 1, "the rule does not see a break");
    assert!(direction_breaks(Path::new("src/node/x.rs"), "use crate::cluster::ring::Ring;").is_empty());
    assert_eq!(all_breaks(direction_breaks), Vec::<String>::new());
}

#[test]
fn crates_are_named_in_their_place_only() {
    assert_eq!(crate_breaks(Path::new("src/rpc/x.rs"), "let x = glommio::spawn_local(y);").len(), 1);
    assert!(crate_breaks(Path::new("src/runtime/x.rs"), "let x = glommio::spawn_local(y);").is_empty());
    assert_eq!(all_breaks(crate_breaks), Vec::<String>::new());
}

#[test]
fn pure_part_names_nothing_that_a_seed_cannot_repeat() {
    assert_eq!(purity_breaks(Path::new("src/node/x.rs"), "let now = std::time::Instant::now();").len(), 2);
    assert!(purity_breaks(Path::new("src/rpc/x.rs"), "let now = std::time::Instant::now();").is_empty());
    assert_eq!(all_breaks(purity_breaks), Vec::<String>::new());
}

#[test]
fn files_say_what_they_are_and_stay_one_noun_long() {
    assert_eq!(form_breaks(Path::new("src/x.rs"), "fn main() { todo!() }\n".repeat(901).as_str()).len(), 3);
    assert_eq!(all_breaks(form_breaks), Vec::<String>::new());
}

#[test]
fn map_names_every_folder() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    for (name, _) in MAY_USE {
        assert!(map.contains(&format!("pub mod {name};")), "lib.rs does not name {name}");
    }
}
