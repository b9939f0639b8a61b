//! What nodes say to each other, held against what their disks have held: no answer leaves before everything it speaks of
//! is durable (`PROTOCOL.md` §1, "Durability of answers"); "never" is said of no version that the disk has held; and an
//! operation takes another version only if no write quorum has held the one before.
//!
//! Also counts the rare states that only messages show.

use super::{MessageBody, World, look_at};
use crate::history::History;
use crate::node::held;
use ringcore::replication::messages::{AttemptId, Found, Message, OwnedRecord, Verdict};
use ringcore::replication::quorum::Quorum;
use ringcore::types::{Hlc, Slot, Token, Version};
use std::collections::BTreeMap;

/// What an offer or a question said, to understand its answer.
struct Asked {
    key: Vec<u8>,
    /// Offered; zero = a question.
    version: Version,
    hlc: Hlc,
}

/// Names a question or an offer: who asked whom about which slot (each core names its own), by which name, and whether it
/// offered something.
type Name = (usize, usize, Slot, AttemptId, bool);

/// What was said so far.
#[derive(Default)]
pub(crate) struct Words {
    asked: BTreeMap<Name, Asked>,
    /// The versions that each operation was offered at.
    offered: BTreeMap<u64, Vec<Version>>,
    pub(super) forwards: u64,
}

impl World {
    /// Of which key a message speaks, as far as that is known.
    pub(super) fn key_of<'a>(&'a self, from: usize, to: usize, message: &'a Message) -> Option<&'a [u8]> {
        match &message.body {
            MessageBody::Write { record, .. } => Some(&record.key),
            MessageBody::Read { key, .. } => Some(key),
            MessageBody::Forward { operation, .. } => operation.key().map(|key| &key[..]),
            MessageBody::WriteAnswer { attempt, .. } => {
                self.words.asked.get(&(to, from, message.slot, *attempt, true)).map(|asked| &asked.key[..])
            }
            MessageBody::ReadAnswer { attempt, .. } | MessageBody::ForwardAnswer { attempt, .. } => {
                self.words.asked.get(&(to, from, message.slot, *attempt, false)).map(|asked| &asked.key[..])
            }
            MessageBody::Collect { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Announce
            | MessageBody::Compare { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Parts { .. }
            | MessageBody::Listing { .. }
            | MessageBody::Want { .. }
            | MessageBody::Survey { .. }
            | MessageBody::SurveyAnswer { .. } => None,
        }
    }

    /// A node says something.
    pub(super) fn said(&mut self, from: usize, to: usize, message: &Message) {
        let Message { slot, hlc, body, .. } = message;
        let checks = !self.options.values_only;
        let mut remember = |attempt: &AttemptId, key: &[u8], version: Version| {
            let name = (from, to, *slot, *attempt, version != Version::ZERO);
            self.words.asked.insert(name, Asked { key: key.to_vec(), version, hlc: *hlc });
        };
        match body {
            MessageBody::Write { attempt, record, repair, .. } => {
                remember(attempt, &record.key, record.version);
                if !repair && checks {
                    self.check_version(record);
                }
            }
            MessageBody::Read { attempt, key, .. } => remember(attempt, key, Version::ZERO),
            MessageBody::Forward { attempt, operation, .. } => {
                remember(attempt, operation.key().expect("it has one"), Version::ZERO);
                self.words.forwards += 1;
            }
            MessageBody::WriteAnswer { attempt, verdict, .. } if checks => {
                self.check_verdict(&(to, from, *slot, *attempt, true), *verdict);
            }
            MessageBody::ReadAnswer { attempt, found } if checks => {
                self.check_found(&(to, from, *slot, *attempt, false), found, *hlc);
            }
            MessageBody::Collect { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Announce
            | MessageBody::Compare { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Parts { .. }
            | MessageBody::Listing { .. }
            | MessageBody::Want { .. }
            | MessageBody::WriteAnswer { .. }
            | MessageBody::ReadAnswer { .. }
            | MessageBody::ForwardAnswer { .. }
            | MessageBody::Survey { .. }
            | MessageBody::SurveyAnswer { .. } => {}
        }
    }

    /// A client's write is offered at a version.
    fn check_version(&mut self, record: &OwnedRecord) {
        let Some(value) = &record.value else { return };
        let versions = self.words.offered.entry(History::named_by(value)).or_default();
        if versions.contains(&record.version) {
            return;
        }
        let earlier = versions.clone();
        versions.push(record.version);
        let replicas = self.replicas(Token::of(&record.key).slot());
        for version in earlier {
            look_at(&record.key);
            let holders = self.durable.holders(&record.key, version, &replicas);
            assert!(
                holders.len() < Quorum::of(replicas.len()).write,
                "{version:?} becomes {:?}, but the disks of {holders:?} of {replicas:?} have held it",
                record.version
            );
        }
    }

    fn check_verdict(&mut self, name: &Name, verdict: Verdict) {
        let Some(asked) = self.words.asked.get(name) else { return };
        let from = name.1;
        let (key, version) = (asked.key.clone(), asked.version);
        look_at(&key);
        let has_held = |version| self.durable.has_held(from, &key, version);
        match verdict {
            Verdict::Held => {
                assert!(
                    has_held(version),
                    "node {from} says that it has held {version:?}, and its disk has not"
                );
                let node = self.sites[from].node.as_ref();
                if node.and_then(|node| held(node, &key)).is_some_and(|held| held > version) {
                    self.met.note("a version that was superseded counted as held");
                }
            }
            Verdict::Never(newer) => {
                assert!(has_held(newer), "node {from} says that it holds {newer:?}, and its disk does not");
                assert!(
                    !has_held(version),
                    "node {from} says that it never held {version:?}, and its disk has"
                );
                self.met.note("a replica never held a version");
            }
            Verdict::Unknown(newer) => {
                assert!(has_held(newer), "node {from} says that it holds {newer:?}, and its disk does not");
                self.met.note("a replica did not remember whether it held a version");
            }
            Verdict::BelowFloor | Verdict::ClockAhead | Verdict::NoRoom | Verdict::Stale => {}
        }
    }

    fn check_found(&mut self, name: &Name, found: &Found, hlc: Hlc) {
        let (version, end) = match found {
            Found::Record { record, .. } => (record.version, record.expires_at_ms),
            Found::Version { version, expires_at_ms, .. } => (*version, *expires_at_ms),
            Found::Stale => return,
        };
        let Some(asked) = self.words.asked.get(name) else { return };
        let from = name.1;
        look_at(&asked.key);
        let durable = version == Version::ZERO || self.durable.has_held(from, &asked.key, version);
        assert!(durable, "node {from} says that it holds {version:?}, and its disk does not");
        if asked.hlc.ms() < end && end <= hlc.ms() {
            self.met.note("an end lay between the clocks of a question and of its answer");
        }
    }
}
