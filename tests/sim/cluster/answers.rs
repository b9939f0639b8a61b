//! What clients are told, and what every answer is held against.

use super::clients::Try;
use super::register::{Deed, Did};
use super::{BEGIN_MS, MS, Phase, World, look_at, trace};
use crate::history::{History, Skew};
use ringcore::replication::quorum::Quorum;
use ringcore::types::request::{Answer, Asker, Level, ReadAnswer, Reply, WriteAnswer};
use ringcore::types::{Failure, Outcome, Reason, Token, Version};

impl World {
    pub(super) fn answered(&mut self, at: usize, asker: Asker, reply: Reply) {
        let open = self.open.remove(&asker.0).expect("each request is answered once");
        assert!(open.site == at, "another node answered");
        look_at(&open.key);
        self.moment += 1;
        trace::line(self.now_ns, Some(&open.key), || format!("{} is told {reply:?}", asker.0));
        if open.must_succeed {
            self.lively.0 += 1;
            self.lively.1 += u64::from(reply.is_ok());
            if let Err(failure) = &reply {
                self.check_lively(&open, failure);
            }
        }
        match (open.operation, reply) {
            (None, Ok(Answer::Read(answer))) => self.read_answered(&open, &answer),
            (Some(operation), Ok(Answer::Write(answer))) => self.acknowledged(&open, operation, &answer),
            (None, Err(failure)) => {
                assert_eq!(failure.outcome, Outcome::Read, "{failure}");
                self.count_failure(&failure);
            }
            (Some(operation), Err(failure)) => self.write_failed(&open, operation, &failure),
            (_, Ok(answer)) => panic!("{open:?} was answered {answer:?}"),
        }
        self.next_of(&open);
    }

    /// G14: what fails although the cluster has healed. A write that another one has beaten at some replicas, while others
    /// are down or hold it, can neither succeed nor take another version: that may happen, but rarely (see the campaign),
    /// and not to a client that is alone.
    fn check_lively(&mut self, open: &Try, failure: &Failure) {
        let beaten = open.is_write() && failure.outcome == Outcome::InDoubt && self.phase == Phase::Healed;
        assert!(beaten, "the cluster had healed, and an operation failed: {failure:?}");
        self.met.note("a write was beaten and could not go on");
    }

    fn read_answered(&mut self, open: &Try, answer: &ReadAnswer) {
        self.trace ^= answer.version.hlc.0;
        if open.level == Level::One {
            return self.history.glimpsed(&open.key, answer);
        }
        let did = if answer.exists { Did::Found(History::named_by(&answer.value)) } else { Did::Nothing };
        let deed = Deed { did, begun: open.begun, ended: Some(self.moment) };
        self.deeds.entry(open.key.clone()).or_default().push(deed);
        if self.options.values_only {
            return;
        }
        let clock = [open.begun_ns, self.now_ns].map(|ns| BEGIN_MS + ns / MS);
        self.history.read(&open.key, &open.before, answer, (clock[0], clock[1]), self.skew());
        if answer.version != Version::ZERO {
            self.check_durable(open, answer.version, "was read");
        }
    }

    fn acknowledged(&mut self, open: &Try, operation: u64, answer: &WriteAnswer) {
        self.trace ^= answer.version.hlc.0;
        if !self.options.values_only {
            self.check_acknowledged(open, operation, answer);
        }
        let write = self.writes.get_mut(&operation).expect("it was asked for");
        write.open -= 1;
        write.acknowledged.get_or_insert(self.moment);
    }

    fn check_acknowledged(&mut self, open: &Try, operation: u64, answer: &WriteAnswer) {
        if open.level == Level::One {
            self.history.dropped_in(&open.key, operation, answer.version);
        } else {
            self.history.written(&open.key, operation, &open.before, open.repeated, answer);
            self.check_old(open, operation, answer);
            self.met.note("a write was acknowledged");
        }
        self.check_durable(open, answer.version, "was acknowledged");
    }

    /// With several replicas the old value is the best that those who made the success knew, and a write that took another
    /// version may have been replaced before it was in force: inexact ones are counted only.
    fn check_old(&mut self, open: &Try, operation: u64, answer: &WriteAnswer) {
        if !open.wants_previous() {
            return assert!(answer.old.is_empty(), "nobody asked for it");
        }
        let exact = self.history.check_old(&open.key, operation, &open.before, open.repeated, answer);
        if let Err(why) = exact {
            assert!(self.options.replicas() > 1, "{why}");
            self.met.note("an old value was not exact");
            trace::line(self.now_ns, Some(&open.key), || why);
        }
    }

    fn write_failed(&mut self, open: &Try, operation: u64, failure: &Failure) {
        self.count_failure(failure);
        match failure.outcome {
            Outcome::NotApplied => {
                let write = self.writes.get_mut(&operation).expect("it was asked for");
                write.open -= 1;
                // Another try may have taken effect, or yet will: this one's answer says nothing of it.
                let nothing = write.open == 0 && !write.doubtful && write.acknowledged.is_none();
                if nothing && !self.options.values_only {
                    self.history.refused(&open.key, operation);
                }
            }
            Outcome::InDoubt => {
                self.met.note("a write ended in doubt");
                self.doubt(operation);
                self.keep_unsure(open);
            }
            Outcome::Applied => {
                assert!(open.repeated, "a first try has its answer");
                self.met.note("an answer was gone");
                self.doubt(operation);
            }
            Outcome::Read => panic!("a write failed as a read: {failure}"),
        }
    }

    fn count_failure(&mut self, failure: &Failure) {
        match failure.reason {
            Reason::TooFewReplicas => self.met.note("too few replicas were believed alive"),
            Reason::NoQuorumInTime => self.met.note("no quorum answered in time"),
            Reason::DiskFull => self.met.note("a write was refused: disk full"),
            Reason::Overloaded => self.met.note("a request was refused: no room"),
            Reason::DeadlinePast => self.met.note("a deadline was past on arrival"),
            _ => {}
        }
    }

    /// G1, and what a quorum read promises: see [`super::durable`].
    fn check_durable(&self, open: &Try, version: Version, what: &str) {
        let replicas = self.replicas(Token::of(&open.key).slot());
        let needed = match open.level {
            Level::One => 1,
            Level::Quorum => Quorum::of(replicas.len()).write,
            Level::All => replicas.len(),
        };
        let holders = self.durable.holders(&open.key, version, &replicas);
        assert!(
            holders.len() >= needed,
            "{version:?} {what} at {:?}, and only the disks of {holders:?} of {replicas:?} have held it",
            open.level
        );
    }

    /// G11: how far the clock that judged an end may lie from the world's; None if a clock did what it liked.
    fn skew(&self) -> Option<Skew> {
        let starts: u64 = self.sites.iter().map(|site| site.life).sum();
        let strayed = self.options.clocks.offset_ms + 50;
        let ahead_ms = self.options.shape.limits.skew_ms_max + 500 * starts + strayed;
        (self.options.clocks.wild == 0).then_some(Skew { ahead_ms, behind_ms: strayed })
    }
}
