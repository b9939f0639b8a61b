//! Anti-entropy (`DESIGN.md` §7.3): in the background this core compares each slot with the slot's other replicas, and
//! whoever lacks a record is sent it, tombstones and ends included.
//!
//! A pair of replicas that agreed on a slot's digest, and whose digest is still the same, has nothing to say: so what is
//! idle costs nothing but a slow walk, which is there in case this is wrong.

use super::{Machine, RECORD_OVERHEAD, owned};
use crate::node::effect::Effects;
use crate::replication::exchange::{self, Difference, Narrowed};
use crate::replication::messages::{LISTED_MAX, MessageBody, PARTS, TokenRange, UNANSWERED};
use crate::storage::digest::Digest;
use crate::types::{Hlc, MemberId, Mono, Now, Slot, Token, Version};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use smallvec::SmallVec;

/// Slots looked at per tick: a core of 8 192 slots is through them within a second of ticks.
const LOOKED_PER_TICK: usize = 48;
/// Comparisons begun per tick, at most.
const COMPARED_PER_TICK: usize = 64;
/// Between comparisons of a slot that changes all the time, milliseconds; the slot's first replica begins them.
const PERIOD_MS: u64 = 10_000;
/// How much later the other replica of a pair begins one, milliseconds.
const SECOND_LATER_MS: u64 = 5_000;
/// After records have moved: do they agree now? Milliseconds.
const CHECK_MS: u64 = 400;
/// Between comparisons of slots that are thought to agree, milliseconds.
const WALK_MS: u64 = 1_000;
/// Records younger than this may be on their way, milliseconds.
const SETTLED_MS: u64 = 1_000;
/// Bytes of records sent per tick, and records that wait to be sent.
const SENT_PER_TICK: usize = 128 << 10;
const SENDING_MAX: usize = 1 << 16;

/// What a core knows of its slots' other replicas.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// Of each slot of the core, in their order; empty while this core is the only replica of all.
    pairs: Vec<SmallVec<[Pair; 2]>>,
    /// Which slot is looked at next, and which is walked next.
    next: usize,
    walked: usize,
    walk_at: Mono,
    /// Records to be sent, by their token.
    sending: VecDeque<(MemberId, Token)>,
    /// Something differed lately: ticks are wanted.
    busy_until: Mono,
}

/// A slot and one of its other replicas.
#[derive(Clone, Copy, Debug)]
struct Pair {
    member: MemberId,
    /// The digest that both had when they last agreed.
    agreed: Digest,
    /// Not before this is it compared again.
    next: Mono,
    /// This member is not the slot's first replica, and gives others time to begin.
    waits: bool,
}

impl Machine {
    /// The slots' replicas are others now.
    pub(super) fn begin_exchanges(&mut self, alone: bool) {
        let member = self.config.member;
        let before = core::mem::take(&mut self.exchanges.pairs);
        if alone {
            return;
        }
        let slots = Slot::of_core(self.config.core, self.config.cores);
        let pairs = slots.enumerate().map(|(at, slot)| {
            let sets = self.sets(slot);
            let others = sets.all().filter(|other| *other != member && sets.contains(member));
            let known = |other: MemberId| before.get(at)?.iter().find(|pair| pair.member == other).copied();
            // Nothing is what all have to begin with: who holds more than that says so.
            let agreed = Digest::default();
            let unknown = |member| Pair { member, agreed, next: Mono(0), waits: false };
            others.map(|other| known(other).unwrap_or(unknown(other))).collect()
        });
        self.exchanges.pairs = pairs.collect();
    }

    /// Is there a difference to be mended? Ticks must then come.
    pub(super) fn is_exchanging(&self) -> bool {
        !self.exchanges.sending.is_empty() || self.exchanges.busy_until > Mono(0)
    }

    /// A tick: looks at some slots, and sends some records.
    pub(super) fn step_exchanges(&mut self, now: Now, out: &mut Effects) {
        let slots = self.exchanges.pairs.len();
        if slots == 0 || self.stopping {
            return;
        }
        if self.exchanges.busy_until <= now.mono {
            self.exchanges.busy_until = Mono(0);
        }
        let mut begun = 0;
        for _ in 0..LOOKED_PER_TICK.min(slots) {
            let at = self.exchanges.next;
            self.exchanges.next = (at + 1) % slots;
            begun += self.compare_slot(now, at, false, out);
            if begun >= COMPARED_PER_TICK {
                break;
            }
        }
        if now.mono >= self.exchanges.walk_at {
            self.exchanges.walk_at = now.mono.after_ms(WALK_MS);
            let at = self.exchanges.walked;
            self.exchanges.walked = (at + 1) % slots;
            self.compare_slot(now, at, true, out);
        }
        self.send_repairs(out);
    }

    /// Compares a slot with those of its replicas that it may not agree with, or `all`. Returns with how many.
    fn compare_slot(&mut self, now: Now, at: usize, all: bool, out: &mut Effects) -> usize {
        let slot = Slot(self.config.core.0 + at as u16 * self.config.cores);
        let digest = self.replica.shard().mark(slot).digest;
        let first = self.ring.replicas(slot).first() == Some(&self.config.member);
        let mut due: SmallVec<[MemberId; 4]> = SmallVec::new();
        for index in 0..self.exchanges.pairs[at].len() {
            let pair = self.exchanges.pairs[at][index];
            let is_due = pair.agreed != digest && pair.next <= now.mono;
            if self.is_suspected(pair.member) || !(is_due || all) {
                continue;
            }
            let begins = all || first || pair.waits;
            let pause_ms = if begins { PERIOD_MS } else { SECOND_LATER_MS };
            let next = now.mono.after_ms(pause_ms);
            self.exchanges.pairs[at][index] = Pair { next, waits: !begins, ..pair };
            if begins {
                due.push(pair.member);
            }
        }
        for member in &due {
            self.answer(self.replica.wait_for_all(), *member, slot, MessageBody::Compare { digest }, out);
        }
        self.stats.compared += due.len() as u64;
        due.len()
    }

    /// A member is believed alive again: what it missed is looked for at once.
    pub(super) fn compare_soon(&mut self, now: Now, member: MemberId) {
        for pair in self.exchanges.pairs.iter_mut().flatten().filter(|pair| pair.member == member) {
            pair.next = pair.next.min(now.mono);
        }
        self.exchanges.busy_until = now.mono.after_ms(CHECK_MS * 2);
    }

    /// Another replica's digest of a slot.
    pub(super) fn compared(
        &mut self,
        now: Now,
        from: MemberId,
        slot: Slot,
        digest: Digest,
        out: &mut Effects,
    ) {
        let own = self.replica.shard().mark(slot).digest;
        if own == digest {
            self.agreed(from, slot, digest);
            return self.answer(self.replica.wait_for_all(), from, slot, MessageBody::Agree { digest }, out);
        }
        self.stats.differences += 1;
        self.check_soon(now, from, slot);
        let body = self.narrowed(now, TokenRange::of_slot(slot));
        self.answer(self.replica.wait_for_all(), from, slot, body, out);
    }

    /// Both have the same of a slot.
    pub(super) fn agreed(&mut self, from: MemberId, slot: Slot, digest: Digest) {
        if let Some(pair) = self.pair(from, slot) {
            pair.agreed = digest;
        }
    }

    /// What another replica holds of a range, piece by piece.
    pub(super) fn parts_told(
        &mut self,
        now: Now,
        (from, slot): (MemberId, Slot),
        range: TokenRange,
        digests: &[Digest],
        out: &mut Effects,
    ) {
        if !range.is_in(slot) || digests.len() != PARTS {
            self.stats.peer_refusals += 1;
            return;
        }
        self.check_soon(now, from, slot);
        for piece in exchange::differing(self.replica.shard().table(), range, digests) {
            let body = self.narrowed(now, piece);
            self.answer(self.replica.wait_for_all(), from, slot, body, out);
        }
    }

    /// All that another replica holds of a range.
    pub(super) fn listing_told(
        &mut self,
        now: Now,
        (from, slot): (MemberId, Slot),
        range: TokenRange,
        entries: &[(Token, Version)],
        out: &mut Effects,
    ) {
        let fits = range.is_in(slot)
            && entries.len() <= LISTED_MAX
            && entries.is_sorted_by_key(|(token, _)| *token)
            && entries.iter().all(|(token, _)| (range.first..=range.last).contains(token));
        if !fits {
            self.stats.peer_refusals += 1;
            return;
        }
        self.check_soon(now, from, slot);
        let settled = self.settled(now);
        let table = self.replica.shard().table();
        let Difference { send, want } = exchange::compare(table, range, entries, settled);
        self.queue(from, &send);
        if !want.is_empty() {
            self.answer(None, from, slot, MessageBody::Want { tokens: want }, out);
        }
    }

    /// Another replica lacks these.
    pub(super) fn wanted(&mut self, now: Now, (from, slot): (MemberId, Slot), tokens: &[Token]) {
        if tokens.len() > LISTED_MAX || tokens.iter().any(|token| token.slot() != slot) {
            self.stats.peer_refusals += 1;
            return;
        }
        self.check_soon(now, from, slot);
        self.queue(from, tokens);
    }

    fn narrowed(&mut self, now: Now, range: TokenRange) -> MessageBody {
        let settled = self.settled(now);
        match exchange::narrow(self.replica.shard().table(), range, settled) {
            Narrowed::Parts(digests) => MessageBody::Parts { range, digests },
            Narrowed::Listing(entries) => MessageBody::Listing { range, entries },
        }
    }

    /// Versions above this may be on their way.
    fn settled(&mut self, now: Now) -> Version {
        let clock_ms = self.clock.read(now);
        Version::new(Hlc::at_ms(clock_ms.saturating_sub(SETTLED_MS)), MemberId::NONE)
    }

    fn queue(&mut self, to: MemberId, tokens: &[Token]) {
        let room = SENDING_MAX.saturating_sub(self.exchanges.sending.len());
        self.exchanges.sending.extend(tokens.iter().take(room).map(|token| (to, *token)));
    }

    /// Sends what waits, as far as a tick may.
    fn send_repairs(&mut self, out: &mut Effects) {
        let mut bytes = 0;
        while bytes < SENT_PER_TICK
            && let Some((to, token)) = self.exchanges.sending.pop_front()
        {
            let (slot, mut records) = (token.slot(), Vec::new());
            let listed = self.replica.shard().table().walk((token, None), token, |_, record| {
                records.push(owned(&record));
                ControlFlow::<()>::Continue(())
            });
            assert!(listed.is_continue(), "few keys share a token");
            let (label, wait) = (self.label(slot), self.replica.wait_for(token));
            for record in records {
                bytes += record.bytes() + RECORD_OVERHEAD;
                self.stats.repaired += 1;
                let attempt = UNANSWERED;
                let body = MessageBody::Write {
                    attempt,
                    record,
                    label,
                    naming: None,
                    previous: false,
                    repair: true,
                };
                self.answer(wait, to, slot, body, out);
            }
        }
    }

    fn check_soon(&mut self, now: Now, member: MemberId, slot: Slot) {
        if let Some(pair) = self.pair(member, slot) {
            pair.next = now.mono.after_ms(CHECK_MS);
        }
        self.exchanges.busy_until = now.mono.after_ms(CHECK_MS * 2);
    }

    fn pair(&mut self, member: MemberId, slot: Slot) -> Option<&mut Pair> {
        let at = usize::from(slot.0 / self.config.cores);
        self.exchanges.pairs.get_mut(at)?.iter_mut().find(|pair| pair.member == member)
    }
}
