//! Damage is accepted: what is intact beyond it survives the start that accepts it, wherever that is interrupted.

use crate::disk::{Image, SimDisk, block_on};
use crate::node::{Shape, SimNode, open};
use bytes::Bytes;
use ringcore::storage::block::BLOCK_BYTES;
use ringcore::storage::disk::Disk;
use ringcore::storage::open::OpenError;
use ringcore::types::request::{Answer, Asker, Expiry, Level, Operation, Request};
use ringcore::types::{Limits, Mono, Now};
use std::cell::Cell;
use std::rc::Rc;

const SEGMENT: &str = "layout-0001/core-000";

fn shape(accept_data_loss: bool) -> Shape {
    Shape {
        segment_blocks: 64,
        round_bytes: 1 << 30,
        accept_data_loss,
        limits: Limits::default(),
        memory_limit: 64 << 20,
    }
}

fn start(disk: &SimDisk, cores: u16, accept_data_loss: bool) -> Option<Result<SimNode, OpenError>> {
    let now = Now { wall_ms: 1_790_000_000_000, mono: Mono(disk.now_ns()) };
    open(disk, cores, &shape(accept_data_loss), Rc::new(Cell::new(now)))
}

fn submit(node: &SimNode, operation: Operation) {
    let request = Request {
        operation,
        level: Level::Quorum,
        identity: None,
        done_below: 0,
        deadline: Mono::NEVER,
        value_bytes_max: usize::MAX,
    };
    node.submit(Asker(1), request);
}

fn put(node: &SimNode, key: &'static [u8], bytes: usize) {
    let (key, value) = (Bytes::from_static(key), Bytes::from(vec![7; bytes]));
    submit(node, Operation::Put { key, value, expiry: Expiry::Never, previous: false });
}

fn holds(node: &SimNode, key: &'static [u8]) -> bool {
    submit(node, Operation::Read { key: Bytes::from_static(key), value: false });
    match &node.run()[..] {
        [(_, Ok(Answer::Read(answer)))] => answer.exists,
        other => panic!("not one answer: {other:?}"),
    }
}

/// A directory whose log holds a batch with `before`, a damaged one, and an intact one with `beyond`, all acknowledged.
fn damaged() -> Image {
    let disk = SimDisk::new(1);
    let node = start(&disk, 1, false).expect("it is not stopped").expect("it is empty");
    put(&node, b"before", 10);
    node.run();
    // Both are under way at once, so no header proves the first.
    put(&node, b"damaged", 10);
    put(&node, b"beyond", 9_000);
    node.run();
    assert!(holds(&node, b"damaged") && holds(&node, b"beyond"));
    drop(node);
    disk.kill();
    let files = block_on(&disk, disk.list(SEGMENT)).expect("it is not stopped").expect("it is there");
    let (path, at) = files
        .iter()
        .map(|name| format!("{SEGMENT}/{name}"))
        .find_map(|path| {
            let content = disk.contents(&path)?;
            let at = content.windows(7).position(|bytes| bytes == b"damaged")?;
            Some((path, at))
        })
        .expect("it was logged");
    disk.flip(&path, (at / BLOCK_BYTES * BLOCK_BYTES + 100) * 8);
    disk.image()
}

#[test]
fn intact_batches_beyond_accepted_damage_survive_every_interruption() {
    let image = damaged();
    for step in 0.. {
        let disk = SimDisk::of_image(image.clone(), step);
        let refused = start(&disk, 1, false).expect("it is not stopped").err();
        assert!(matches!(refused, Some(OpenError::Damaged(_))), "{refused:?}");
        disk.stop_at(disk.steps() + step);
        let first = start(&disk, 1, true);
        let done = first.is_some();
        drop(first);
        disk.crash();
        // Whoever accepted the damage once accepts it again; where that start had come to its end, nobody needs to.
        let node = start(&disk, 1, !done).expect("it is not stopped").expect("the damage was accepted");
        assert!(holds(&node, b"before") && holds(&node, b"beyond"), "step {step}");
        assert!(!holds(&node, b"damaged"));
        if done {
            return;
        }
    }
}

#[test]
fn damage_is_not_accepted_together_with_another_number_of_cores() {
    let disk = SimDisk::of_image(damaged(), 1);
    let refused = start(&disk, 2, true).expect("it is not stopped").err();
    assert_eq!(refused, Some(OpenError::DamagedLayout { cores: 1 }));
    let node = start(&disk, 1, true).expect("it is not stopped").expect("the damage is accepted");
    assert!(holds(&node, b"beyond"));
    drop(node);
    disk.crash();
    let node = start(&disk, 2, false).expect("it is not stopped").expect("nothing is damaged any more");
    assert!(holds(&node, b"before") && holds(&node, b"beyond"));
}
