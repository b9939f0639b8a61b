//! Ends under load: killed, told to stop, stopped for a while.

use super::node::{Home, Node, among_others, number_from, seed, until};
use super::writer::{Load, Writer, audit, is_of_absence, writers};
use ringcore::client::{Cause, Outcome, Reason};
use ringcore::types::prng::Prng;
use rustix::process::Signal;
use std::time::Duration;

/// Writers at a time.
const WRITERS: u64 = 12;

#[test]
fn nothing_acknowledged_is_lost_or_changed_by_kills_at_random_moments() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let kills = number_from("RINGCORE_TEST_KILLS", 20);
    let home = Home::new("kills");
    let flags = ["--cores", "2"];
    let mut node = Node::start(&home, &flags);
    let mut writers = writers(WRITERS, &mut prng);
    let mut audited = 0;
    for _ in 0..kills {
        let load = Load::start(node.address, writers);
        until("writes are acknowledged", || load.acknowledged() > 0);
        wait_ms(prng.below(250));
        node.kill();
        // The start is work that can be interrupted, too.
        while prng.chance(300) {
            let unfinished = Node::launch(&home, &flags);
            wait_ms(prng.below(100));
            unfinished.kill();
        }
        node = Node::start(&home, &flags);
        // Writers that repeat by themselves go on over the kill; the others have noted their doubts.
        wait_ms(prng.below(50));
        writers = load.finish();
        assert_errors(&writers, is_of_absence);
        audited += audit(node.address, &mut writers);
    }
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged).sum();
    println!("{kills} kills, {acknowledged} acknowledged writes, {audited} keys compared");
    assert!(acknowledged > kills * 10, "only {acknowledged} writes were acknowledged");
    node.stop();
}

#[test]
fn stop_under_load_answers_what_is_in_flight_and_leaves_nothing_to_repair() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let home = Home::new("stop");
    let flags = ["--cores", "2"];
    let mut writers = writers(WRITERS, &mut prng);
    for _ in 0..3 {
        let node = Node::start(&home, &flags);
        audit(node.address, &mut writers);
        let load = Load::start(node.address, writers);
        until("writes are acknowledged", || load.acknowledged() > 500);
        let said = node.stop();
        assert_calm(&said);
        writers = load.finish();
        // Refused before anything was done, not begun, or not reached at all. Only a call on a connection that the node
        // never took from the system's queue is in doubt: its client cannot know that nobody read it.
        let mut lost = 0;
        assert_errors(&writers, |error| {
            matches!(
                error.cause(),
                Cause::Unreachable | Cause::Refused(Reason::Stopping) | Cause::ConnectionLost
            )
        });
        for error in writers.iter().flat_map(|writer| &writer.errors) {
            if error.outcome() == Outcome::InDoubt {
                println!("in doubt: {error:?}");
            }
        }
        for writer in &mut writers {
            lost += writer.errors.iter().filter(|error| error.outcome() == Outcome::InDoubt).count();
            writer.errors.clear();
        }
        println!("{lost} calls met the end of their connection");
        assert!(lost <= 3, "{lost} of {WRITERS} calls in flight were not answered");
    }
    let node = Node::start(&home, &flags);
    audit(node.address, &mut writers);
    assert_calm(&node.stop());
}

#[test]
fn a_node_that_was_stopped_for_a_while_goes_on_without_an_error() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let home = Home::new("pause");
    let node = Node::start(&home, &["--cores", "2"]);
    let load = Load::start(node.address, writers(WRITERS, &mut prng));
    until("writes are acknowledged", || load.acknowledged() > 500);
    node.signal(Signal::STOP);
    wait_ms(2_000);
    node.signal(Signal::CONT);
    let before = load.acknowledged();
    until("writes are acknowledged again", || load.acknowledged() > before + 500);
    let mut writers = load.finish();
    assert_errors(&writers, |_| false);
    audit(node.address, &mut writers);
    node.stop();
}

/// Lets the processes run: how far they come in this time is what is random.
fn wait_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn assert_errors(writers: &[Writer], fit: impl Fn(&ringcore::client::ClientError) -> bool) {
    for error in writers.iter().flat_map(|writer| &writer.errors) {
        assert!(fit(error), "{error:?}");
    }
}

/// No diagnostics above the usual.
fn assert_calm(said: &str) {
    for level in ["WARN", "ERROR"] {
        assert!(!said.contains(level), "{said}");
    }
}
