//! One core as a replica: takes records into table and log, and says from when on each may be spoken of.
//!
//! A record is in the table as soon as it is appended, and durable a little later. Whatever speaks of it (the answer to
//! its writer, a read, a page of a scan) waits for its [`Ticket`]. Reads find the ticket by a hash of the token: a false
//! match only waits for one flush too many.

use super::ever_held::{Ever, EverHeld};
use super::messages::Replaced;
use crate::storage::log::{Log, Ticket};
use crate::storage::log_record::{Attempt, Entry, LogRecord, OperationEntry, PurgeList, Round};
use crate::storage::shard::{Admission, Shard};
use crate::types::mutant::{Mutant, planted};
use crate::types::{Hlc, OperationId, RecordRef, Slot, Token, Version};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Entries of the table of tickets: 128 KiB per core.
const PENDING: usize = 1 << 14;

/// A core's data and its log.
pub struct Replica {
    shard: Shard,
    log: Log,
    pending: Box<[Ticket]>,
    ever_held: EverHeld,
    /// No slot of this core has another replica: nobody will ask what was ever held.
    alone: bool,
    /// The last change of a slot's replicas that was adopted here.
    adopted: Ticket,
}

/// What became of a record that was offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// In table and log; durable with this ticket.
    Held(Ticket),
    /// A newer version is here, and durable once the ticket is (None: already).
    Superseded(Version, Option<Ticket>, Ever),
    /// Refused by the gate.
    BelowFloor,
    /// Refused: too many keys with nearly the same token.
    NoPlace,
}

/// A named operation on its way into the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming {
    /// The client's name for it.
    pub id: OperationId,
    /// Whose attempt it is.
    pub attempt: Attempt,
    /// xxh3-64 over what was asked for.
    pub payload_hash: u64,
}

impl Replica {
    /// Joins a recovered shard and its log. No version above `bound` has ever been applied here.
    pub fn new(shard: Shard, log: Log, bound: Hlc) -> Replica {
        let ever_held = EverHeld::new(shard.slots(), shard.cores(), bound);
        let pending = alloc::vec![Ticket::default(); PENDING].into_boxed_slice();
        Replica { shard, log, pending, ever_held, alone: false, adopted: Ticket::default() }
    }

    /// The slot is another member's now, since this epoch: all of it goes.
    pub fn drop_slot(&mut self, slot: Slot, epoch: u64) {
        self.shard.drop_slot(slot);
        self.log.append(&LogRecord::Drop { slot, epoch });
    }

    /// Does the slot hold any record, dead or alive?
    pub fn holds_any(&self, slot: Slot) -> bool {
        let (first, last) = ((slot.first_token(), None), slot.last_token());
        self.shard.table().walk(first, last, |_, _| ControlFlow::Break(())).is_break()
    }

    /// Is this core the only replica of all its slots? Then it need not remember what it ever held.
    pub fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// Adopts a newer configuration of a slot. Nothing is answered before that is durable.
    pub fn adopt(&mut self, slot: Slot, configuration: u64, epoch: u64, bound: Hlc) {
        self.ever_held.forget_slot(slot, bound);
        self.shard.raise_mark(slot, Round::default(), Version::ZERO, configuration);
        self.adopted = self.log.append(&LogRecord::Adopt { slot, c: configuration, epoch });
    }

    /// The data.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The data, for upkeep.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The log, for the shell that writes it.
    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// The record of a key, and the ticket to wait for before anything is said of it.
    pub fn read(&self, token: Token, key: &[u8]) -> (Option<RecordRef<'_>>, Option<Ticket>) {
        (self.shard.get(token, key), self.wait_for(token))
    }

    /// The ticket to wait for before anything is said of a key with this token.
    pub fn wait_for(&self, token: Token) -> Option<Ticket> {
        let ticket = self.pending[pending_at(token)].max(self.adopted);
        (ticket > self.log.durable().0 && !planted(Mutant::ReadBeforeDurable)).then_some(ticket)
    }

    /// The ticket to wait for before anything is said of a slot's configuration.
    pub fn wait_for_adoption(&self) -> Option<Ticket> {
        (self.adopted > self.log.durable().0).then_some(self.adopted)
    }

    /// The ticket to wait for before anything is said of any key.
    pub fn wait_for_all(&self) -> Option<Ticket> {
        let last = self.log.last_ticket();
        (last > self.log.durable().0).then_some(last)
    }

    /// Offers a record. `at` judges whether what it replaces was alive; its value is copied if `previous`.
    pub fn write(
        &mut self,
        record: &RecordRef<'_>,
        label: Option<Round>,
        naming: Option<Naming>,
        at: Hlc,
        previous: bool,
    ) -> (Taken, Replaced) {
        let token = Token::of(record.key);
        let (place, wait) = (self.shard.find(token, record.key), self.wait_for(token));
        let replaced = self.shard.at(place).map_or_else(Replaced::default, |held| Replaced {
            version: held.version,
            value: held
                .live_value(at)
                .map(|old| if previous { Bytes::copy_from_slice(old) } else { Bytes::new() }),
        });
        let (present, own) = (replaced.version, naming.map(|naming| naming.id));
        // An operation that takes another version replaces itself: what counts is what it replaced first.
        let replaced = own.and_then(|id| self.first_replaced(id, present, previous)).unwrap_or(replaced);
        match self.shard.admit(token, place, record, label) {
            Admission::Wins => {}
            // What it replaced when it came first is known of a named operation only; certainly it was not itself.
            Admission::Held => {
                let replaced = if replaced.version == present { Replaced::default() } else { replaced };
                return (Taken::Held(wait.unwrap_or_default()), replaced);
            }
            Admission::Superseded(_) if planted(Mutant::StoreBlindly) => {}
            Admission::Superseded(newer) => {
                let ever = self.ever_held.ask(token, record.version);
                return (Taken::Superseded(newer, wait, ever), replaced);
            }
            Admission::BelowFloor => return (Taken::BelowFloor, replaced),
        }
        if self.shard.insert(token, place, record).is_err() {
            return (Taken::NoPlace, replaced);
        }
        if present != Version::ZERO && !self.alone {
            self.ever_held.remember(token, present);
        }
        let operation = naming.map(|naming| OperationEntry {
            id: naming.id,
            attempt: naming.attempt,
            payload_hash: naming.payload_hash,
            replaced: replaced.version,
            had_old: replaced.value.is_some(),
        });
        if let Some(operation) = &operation {
            let old = replaced.value.clone().filter(|_| previous);
            self.shard.remember(token.slot(), operation, record.version, old);
        }
        let operation = operation.filter(|_| !planted(Mutant::IdentityNotLogged));
        let ticket = self.log.append(&LogRecord::Record(Entry { record: *record, label, operation }));
        self.pending[pending_at(token)] = ticket;
        (Taken::Held(ticket), replaced)
    }

    /// What a named operation replaced when it came here first, if `version` is its present one and that is remembered.
    fn first_replaced(&self, id: OperationId, version: Version, previous: bool) -> Option<Replaced> {
        let entry = self.shard.identities().get(id).filter(|entry| entry.version == version)?;
        let value = match entry.had_old {
            false => None,
            true if previous => Some(entry.old.clone()?),
            true => Some(Bytes::new()),
        };
        Some(Replaced { version: entry.replaced, value })
    }

    /// Logs a round of collection. It is applied by [`Replica::collected`], once the ticket is durable: a floor is
    /// answered for only when it cannot be lost.
    pub fn collect(&mut self, round: &Collection) -> Ticket {
        let Collection { slot, round, floor, ref listed } = *round;
        let mut purge = PurgeList::default();
        for (key, version) in listed {
            purge.push(key, *version);
        }
        self.log.append(&LogRecord::Collect { slot, round, floor, purge: purge.as_purge() })
    }

    /// Applies a round of collection whose log entry is durable. What it purges was held here, and is not remembered one by
    /// one: nothing at or below the floor is known any more.
    pub fn collected(&mut self, round: &Collection) {
        self.ever_held.forget_slot(round.slot, round.floor.hlc);
        let listed = round.listed.iter().map(|(key, version)| (&key[..], *version));
        self.shard.collect(round.slot, round.round, round.floor, listed);
    }
}

/// One round of collection of one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collection {
    /// The slot.
    pub slot: Slot,
    /// Its number.
    pub round: Round,
    /// The greatest version listed.
    pub floor: Version,
    /// What all replicas have confirmed to be dead.
    pub listed: Vec<(Bytes, Version)>,
}

fn pending_at(token: Token) -> usize {
    // The top bits name the slot, and with it the core: only the low ones spread the keys of one core.
    (token.0 as usize) & (PENDING - 1)
}
