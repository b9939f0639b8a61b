//! Starts that must not succeed, each with its exit code and a sentence that says why; and what they leave alone.

use super::node::{Home, Node, among_others, block_on};
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How the usual start asks for its member.
const N1: [&str; 3] = ["--bootstrap", "--name", "n1"];
const BLOCK_BYTES: usize = 4_096;
/// The envelope of NODE and MANIFEST: magic 8, version 4, length 4, crc32c of those 16 bytes and the payload.
const ENVELOPE_BYTES: usize = 24;

/// A node that has some data, stopped.
fn stopped(name: &str, keys: u32) -> Home {
    let home = Home::new(name);
    let node = Node::start(&home, &["--cores", "1"]);
    put(&node, 0..keys);
    node.stop();
    home
}

fn put(node: &Node, keys: std::ops::Range<u32>) {
    block_on(async {
        let client = node.client().await;
        for index in keys {
            client.put(format!("key-{index}"), vec![b'v'; 2_000]).await.unwrap();
        }
    });
}

#[track_caller]
fn assert_refused(home: &Home, flags: &[&str], exit: i32, says: &[&str]) {
    let (code, said) = home.refused(flags);
    assert_eq!(code, exit, "{flags:?}: {said}");
    for words in says {
        assert!(said.contains(words), "{flags:?}: no {words:?} in: {said}");
    }
}

#[test]
fn directory_in_use_is_refused_and_its_node_goes_on() {
    let _shared = among_others();
    let home = Home::new("in-use");
    let node = Node::start(&home, &["--cores", "1"]);
    let other = Home::with_data("in-use-other", home.data());
    assert_refused(&other, &N1, 1, &["in use by process"]);
    put(&node, 0..10);
    node.stop();
}

#[test]
fn port_in_use_is_refused() {
    let _shared = among_others();
    let home = Home::new("port");
    for address in [home.client, home.peer, home.admin] {
        let _taken = TcpListener::bind(address).expect("it was free");
        assert_refused(&home, &N1, 1, &["cannot listen on", &address.to_string()]);
    }
    assert!(!home.data().exists(), "nothing is made before the ports are had");
}

#[test]
fn addresses_of_other_machines_need_a_word() {
    let _shared = among_others();
    let home = Home::new("insecure");
    for (flag, address) in
        [("--listen", home.client), ("--peer-listen", home.peer), ("--admin-listen", home.admin)]
    {
        let everywhere = format!("0.0.0.0:{}", address.port());
        let flags = [&N1[..], &[flag, &everywhere]].concat();
        assert_refused(&home, &flags, 78, &["other machines can reach", "--insecure"]);
    }
    assert!(!home.data().exists());
}

#[test]
fn fresh_directory_needs_a_cluster() {
    let _shared = among_others();
    let home = Home::new("fresh");
    assert_refused(&home, &["--name", "n1"], 78, &["belongs to no cluster yet", "--bootstrap", "--join"]);
}

#[test]
fn directory_of_another_member_is_refused() {
    let _shared = among_others();
    let home = stopped("member", 1);
    assert_refused(&home, &["--bootstrap", "--name", "n2"], 78, &["belongs to member \"n1\"", "--name n1"]);
    Node::start(&home, &[]).stop();
}

#[test]
fn directory_with_other_files_is_left_alone() {
    let _shared = among_others();
    let home = Home::new("foreign");
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("photo.jpg"), "x").unwrap();
    assert_refused(&home, &N1, 78, &["photo.jpg", "--data-dir"]);
    assert_eq!(fs::read(home.data().join("photo.jpg")).unwrap(), b"x");
    assert!(!home.data().join("NODE").exists());
}

#[test]
fn files_of_another_cluster_are_refused() {
    let _shared = among_others();
    let (home, other) = (stopped("own", 10), stopped("other", 10));
    fs::copy(core_file(&other, "MANIFEST"), core_file(&home, "MANIFEST")).unwrap();
    assert_refused(&home, &N1, 78, &["MANIFEST", "belongs to"]);
}

#[test]
fn damaged_log_stops_the_start_until_the_loss_is_accepted() {
    let _shared = among_others();
    let home = Home::new("damage");
    let node = Node::start(&home, &["--cores", "1"]);
    put(&node, 0..200);
    node.kill();
    damage_middle(&largest_log(&home));
    for _ in 0..2 {
        assert_refused(
            &home,
            &N1,
            74,
            &["damaged", "corrupt", "LSN", "lie behind the damage", "--accept-data-loss"],
        );
    }
    let node = Node::start(&home, &["--cores", "1", "--accept-data-loss"]);
    let there = count(&node, 200);
    assert!((150..200).contains(&there), "{there} of 200 keys are left");
    // What was accepted once is behind the node, however it ends.
    node.kill();
    let node = Node::start(&home, &["--cores", "1"]);
    assert_eq!(count(&node, 200), there);
    node.stop();
}

#[test]
fn truncated_manifest_stops_the_start() {
    let _shared = among_others();
    let home = stopped("manifest", 10);
    let manifest = core_file(&home, "MANIFEST");
    let whole = fs::read(&manifest).unwrap();
    for length in [0, 10, ENVELOPE_BYTES, ENVELOPE_BYTES + 20] {
        fs::write(&manifest, &whole[..length]).unwrap();
        assert_refused(&home, &N1, 74, &["MANIFEST is damaged"]);
    }
    fs::remove_file(&manifest).unwrap();
    assert_refused(&home, &N1, 74, &["MANIFEST is missing"]);
    fs::write(&manifest, &whole).unwrap();
    let node = Node::start(&home, &[]);
    assert_eq!(count(&node, 10), 10);
    node.stop();
}

#[test]
fn newer_formats_are_refused_as_such() {
    let _shared = among_others();
    let home = stopped("newer", 10);
    for path in [home.data().join("NODE"), core_file(&home, "MANIFEST")] {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, of_version(&whole, 99)).unwrap();
        assert_refused(&home, &N1, 74, &["format 99", "newer version"]);
        fs::write(&path, &whole).unwrap();
    }
    Node::start(&home, &[]).stop();
}

/// A file of core 0 of the first layout.
fn core_file(home: &Home, name: &str) -> PathBuf {
    home.data().join("layout-0001/core-000").join(name)
}

/// The file of the log in which most is written.
fn largest_log(home: &Home) -> PathBuf {
    let entries = fs::read_dir(core_file(home, "")).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("wal-"));
    logs.max_by_key(|path| written_blocks(path).len()).expect("a core has a log")
}

/// Numbers of the blocks that are not zeros.
fn written_blocks(path: &Path) -> Vec<usize> {
    let bytes = fs::read(path).unwrap();
    let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
    blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)).map(|(index, _)| index).collect()
}

/// Flips some bytes in the middle of what was written, far below the end.
fn damage_middle(path: &Path) {
    let blocks = written_blocks(path);
    let at = (blocks[blocks.len() / 2] * BLOCK_BYTES + 1_000) as u64;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, at).unwrap();
    file.write_all_at(&bytes.map(|byte| !byte), at).unwrap();
}

/// The file as a program with this format version would have sealed it.
fn of_version(file: &[u8], version: u32) -> Vec<u8> {
    let mut file = file.to_vec();
    file[8..12].copy_from_slice(&version.to_le_bytes());
    let length = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let crc =
        crc32c::crc32c_append(crc32c::crc32c(&file[..16]), &file[ENVELOPE_BYTES..ENVELOPE_BYTES + length]);
    file[16..20].copy_from_slice(&crc.to_le_bytes());
    file
}

/// How many of the first keys have their value.
fn count(node: &Node, keys: u32) -> usize {
    block_on(async {
        let client = node.client().await;
        let entries = client.batch_read((0..keys).map(|index| format!("key-{index}"))).await;
        entries.into_iter().filter(|entry| entry.as_ref().unwrap().is_some()).count()
    })
}
