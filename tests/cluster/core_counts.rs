//! The same data under other numbers of cores.

use super::node::{Home, Node, among_others, block_on, seed, until};
use super::writer::{Load, audit, writers};
use ringcore::types::prng::Prng;
use std::time::Duration;

/// Each follows each, itself included, once.
const CORES: [&str; 10] = ["1", "1", "2", "2", "4", "4", "2", "1", "4", "1"];

#[test]
fn data_outlives_every_change_of_the_number_of_cores() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let home = Home::new("cores");
    let mut writers = writers(8, &mut prng);
    for (step, cores) in CORES.into_iter().enumerate() {
        let node = Node::start(&home, &["--cores", cores]);
        assert_eq!(node.metric("ringcore_keys").len(), cores.parse::<usize>().expect("a number"));
        audit(node.address, &mut writers);
        expire_one(&node, step);
        let load = Load::start(node.address, writers);
        until("writes are acknowledged", || load.acknowledged() > 300);
        writers = load.finish();
        // Now and then the old layouts may go; else the next start reads several.
        if step % 4 == 3 {
            until("the old layouts are gone", || layouts(&home) == 1);
            audit(node.address, &mut writers);
        }
        if prng.chance(500) {
            node.kill();
        } else {
            node.stop();
        }
    }
    let node = Node::start(&home, &["--cores", "2"]);
    audit(node.address, &mut writers);
    until("the old layouts are gone", || layouts(&home) == 1);
    node.stop();
    let node = Node::start(&home, &["--cores", "2"]);
    assert_eq!(audit(node.address, &mut writers), 8 * 64);
    expire_one(&node, CORES.len());
    node.stop();
}

/// Writes a value that ends soon, over one that does not, and sees it end; those of the steps before are gone.
fn expire_one(node: &Node, step: usize) {
    block_on(async {
        let client = node.client().await;
        for before in 0..step {
            assert_eq!(client.get(format!("short-{before}")).await.unwrap(), None, "it is back");
        }
        let key = format!("short-{step}");
        client.put(key.clone(), "lasting").await.unwrap();
        client.put(key.clone(), "short").ttl(Duration::from_millis(30)).await.unwrap();
        while client.get(key.clone()).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    });
}

fn layouts(home: &Home) -> usize {
    let names = std::fs::read_dir(home.data()).expect("the data directory is there");
    names
        .filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("layout-"))
        })
        .count()
}
