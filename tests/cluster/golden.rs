//! Data directories of earlier builds: every later one opens them and finds what they hold. `tests/golden/make.sh` made
//! them.

use super::node::{Home, Node, among_others, ran, ringctl};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn data_of_earlier_builds_is_read_whole() {
    let _shared = among_others();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let names = fs::read_dir(&golden).expect("the golden directories are there");
    let names = names.map(|entry| entry.expect("readable").file_name().into_string().expect("plain names"));
    let archives: Vec<_> = names.filter(|name| name.ends_with(".tar.gz")).collect();
    assert_eq!(archives.len(), 3, "{archives:?}");
    for archive in archives {
        let name = archive.trim_end_matches(".tar.gz");
        let expected = fs::read_to_string(golden.join(format!("{name}.jsonl"))).expect("its content is told");
        // With the cores that it was written by, and with others.
        for cores in ["1", "2", "4"] {
            let files = Home::new("golden");
            let unpacked = Command::new("tar")
                .args(["-xzf".as_ref(), golden.join(&archive).as_os_str()])
                .arg("-C")
                .arg(files.file(""))
                .status();
            assert!(unpacked.expect("tar is there").success());
            let home = Home::with_data("golden-node", &files.file(name));
            let command = ["--cores", cores, "--name", "golden"];
            let node = Node::start_as(&home, &command);
            let (code, out, err) = ran(ringctl(node.address, &["export"]));
            assert_eq!(code, 0, "{err}");
            let mut lines: Vec<_> = out.lines().collect();
            lines.sort_unstable();
            assert!(
                lines.iter().copied().eq(expected.lines()),
                "{name} with {cores} cores: {} lines",
                lines.len()
            );
            node.stop();
        }
    }
}
