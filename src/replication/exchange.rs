//! Two replicas of a slot find out in what they differ: sums over ever smaller ranges of tokens, and at last lists of
//! versions, so that the cost follows the difference and not the data (`DESIGN.md` §7.3). Moves no records itself.

use super::messages::{LISTED_MAX, PARTS, TokenRange};
use crate::storage::digest::Digest;
use crate::storage::table::Table;
use crate::types::{Slot, Token, Version};
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// What one replica says of a range that differs.
#[derive(Debug)]
pub enum Narrowed {
    /// It is cut into pieces.
    Parts(Vec<Digest>),
    /// It holds so few records that they are listed.
    Listing(Vec<(Token, Version)>),
}

/// What follows from another replica's list.
#[derive(Debug, Default)]
pub struct Difference {
    /// Tokens of records that the other lacks or has an older version of.
    pub send: Vec<Token>,
    /// Tokens of records that this replica lacks or has an older version of.
    pub want: Vec<Token>,
}

impl TokenRange {
    /// All of a slot.
    pub fn of_slot(slot: Slot) -> TokenRange {
        TokenRange { first: slot.first_token(), last: slot.last_token() }
    }

    /// Does it lie in that slot, and is it as long as a whole slot or a piece of one?
    pub fn is_in(self, slot: Slot) -> bool {
        self.first <= self.last && self.first.slot() == slot && self.last.slot() == slot
    }

    /// A piece of it, 0 .. [`PARTS`]; None if it is too short to be cut.
    pub fn part(self, index: usize) -> Option<TokenRange> {
        let step = self.step()?;
        let first = self.first.0 + step * index as u64;
        let last = if index + 1 == PARTS { self.last.0 } else { first + step - 1 };
        Some(TokenRange { first: Token(first), last: Token(last) })
    }

    /// Which of its pieces a token lies in.
    fn part_of(self, token: Token) -> Option<usize> {
        Some((((token.0 - self.first.0) / self.step()?) as usize).min(PARTS - 1))
    }

    fn step(self) -> Option<u64> {
        let step = (self.last.0 - self.first.0) / PARTS as u64;
        (step > 0).then_some(step)
    }
}

/// What this replica says of a range. Records younger than `settled` are left out of a list: they may be on their way.
pub fn narrow(table: &Table, range: TokenRange, settled: Version) -> Narrowed {
    let mut entries = Vec::new();
    let mut parts = Vec::new();
    let listed = table.walk((range.first, None), range.last, |token, record| {
        if entries.len() >= LISTED_MAX && range.step().is_some() {
            return ControlFlow::Break(());
        }
        if record.version <= settled {
            entries.push((token, record.version));
        }
        ControlFlow::Continue(())
    });
    if listed.is_continue() {
        return Narrowed::Listing(entries);
    }
    parts.resize(PARTS, Digest::default());
    let summed = table.walk((range.first, None), range.last, |token, record| {
        if let Some(part) = range.part_of(token) {
            parts[part].add(Digest::of(&record));
        }
        ControlFlow::<()>::Continue(())
    });
    assert!(summed.is_continue(), "the walk goes to the range's end");
    Narrowed::Parts(parts)
}

/// The pieces of a range in which this replica differs from what another said of them.
pub fn differing(table: &Table, range: TokenRange, theirs: &[Digest]) -> Vec<TokenRange> {
    let mut own: Vec<Digest> = alloc::vec![Digest::default(); PARTS];
    let summed = table.walk((range.first, None), range.last, |token, record| {
        if let Some(part) = range.part_of(token) {
            own[part].add(Digest::of(&record));
        }
        ControlFlow::<()>::Continue(())
    });
    assert!(summed.is_continue(), "the walk goes to the range's end");
    let pieces = own.iter().zip(theirs).enumerate().filter(|(_, (own, theirs))| own != theirs);
    pieces.filter_map(|(index, _)| range.part(index)).collect()
}

/// Compares another replica's list of a range with what is here. Records younger than `settled` are left alone.
pub fn compare(
    table: &Table,
    range: TokenRange,
    theirs: &[(Token, Version)],
    settled: Version,
) -> Difference {
    let mut difference = Difference::default();
    let mut at = 0;
    let walked = table.walk((range.first, None), range.last, |token, record| {
        while at < theirs.len() && theirs[at].0 < token {
            difference.want.push(theirs[at].0);
            at += 1;
        }
        // Keys that share a token are told apart by nothing here: they may travel in vain.
        let listed = theirs.get(at).filter(|(listed, _)| *listed == token).map(|(_, version)| *version);
        at += usize::from(listed.is_some());
        match listed {
            Some(version) if version > record.version => difference.want.push(token),
            Some(version) if version == record.version => {}
            Some(_) | None if record.version <= settled => difference.send.push(token),
            Some(_) | None => {}
        }
        if difference.send.len() + difference.want.len() >= LISTED_MAX {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if walked.is_continue() {
        difference.want.extend(theirs[at..].iter().map(|(token, _)| *token).take(LISTED_MAX));
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use crate::types::{Body, CoreId, Hlc, MemberId, RecordRef};
    use alloc::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, Version>;

    fn version(hlc: u64) -> Version {
        Version::new(Hlc(hlc), MemberId(1))
    }

    /// Keys of slot 0, and a table that holds them.
    fn table(model: &Model) -> Table {
        let mut table = Table::new(1, CoreId(0), 1);
        for (key, version) in model {
            let record = RecordRef { key, version: *version, expires_at_ms: 0, body: Body::Value(b"v") };
            let token = Token::of(key);
            let place = table.find(token, key);
            table.set_at(token, place, &record).expect("there is room");
        }
        table
    }

    fn keys_of_slot_0(count: usize) -> Vec<Vec<u8>> {
        let keys = (0u32..).map(|n| n.to_le_bytes().to_vec());
        keys.filter(|key| Token::of(key).slot() == Slot(0)).take(count).collect()
    }

    /// Lets two replicas narrow a range down as their messages would, and moves the records; how many moved.
    fn converge(a: &mut Model, b: &mut Model, settled: Version) -> usize {
        let (here, there) = (table(a), table(b));
        let mut ranges = alloc::vec![TokenRange::of_slot(Slot(0))];
        let mut moved = 0;
        while let Some(range) = ranges.pop() {
            match narrow(&there, range, settled) {
                Narrowed::Parts(parts) => ranges.extend(differing(&here, range, &parts)),
                Narrowed::Listing(entries) => {
                    let Difference { send, want } = compare(&here, range, &entries, settled);
                    moved += send.len() + want.len();
                    let copy = |from: &Model, to: &mut Model, tokens: &[Token]| {
                        let of_tokens = from.iter().filter(|(key, _)| tokens.contains(&Token::of(key)));
                        let copied: Vec<_> =
                            of_tokens.map(|(key, version)| (key.clone(), *version)).collect();
                        for (key, version) in copied {
                            let held = to.entry(key).or_insert(version);
                            *held = version.max(*held);
                        }
                    };
                    let (before_a, before_b) = (a.clone(), b.clone());
                    copy(&before_a, b, &send);
                    copy(&before_b, a, &want);
                }
            }
        }
        moved
    }

    #[test]
    fn replicas_become_equal_and_only_what_differs_moves() {
        let keys = keys_of_slot_0(6_000);
        let mut prng = Prng::new(3);
        for round in 0..6u64 {
            let (mut a, mut b) = (Model::new(), Model::new());
            let mut differences = 0;
            let kept = if round == 0 { 50 } else { keys.len() };
            for key in &keys[..kept] {
                let (in_a, in_b) = match prng.below(200) {
                    0 => (Some(version(5)), None),
                    1 => (None, Some(version(5))),
                    2 => (Some(version(5)), Some(version(6))),
                    3 => (Some(version(7)), Some(version(6))),
                    _ => (Some(version(4)), Some(version(4))),
                };
                differences += usize::from(in_a != in_b);
                a.extend(in_a.map(|version| (key.clone(), version)));
                b.extend(in_b.map(|version| (key.clone(), version)));
            }
            let moved = converge(&mut a, &mut b, version(100));
            assert_eq!(a, b, "round {round}");
            assert_eq!(moved, differences);
        }
    }

    #[test]
    fn what_is_on_its_way_is_left_alone() {
        let keys = keys_of_slot_0(20);
        let mut a: Model = keys.iter().map(|key| (key.clone(), version(4))).collect();
        let mut b = a.clone();
        a.insert(keys[0].clone(), version(50));
        b.insert(keys[1].clone(), version(50));
        assert_eq!(converge(&mut a, &mut b, version(40)), 1, "what seems to be missing there is newer there");
        assert_eq!((a[&keys[1]], b[&keys[0]]), (version(4), version(4)));
        assert_eq!(converge(&mut a, &mut b, version(60)), 2);
        assert_eq!(a, b);
    }

    #[test]
    fn pieces_of_a_range_are_all_of_it_and_do_not_overlap() {
        let slot = TokenRange::of_slot(Slot(77));
        let mut next = slot.first.0;
        for index in 0..PARTS {
            let part = slot.part(index).expect("a slot can be cut");
            assert_eq!(part.first.0, next);
            assert!(part.is_in(Slot(77)) && !part.is_in(Slot(76)));
            assert_eq!((slot.part_of(part.first), slot.part_of(part.last)), (Some(index), Some(index)));
            next = part.last.0.wrapping_add(1);
        }
        assert_eq!(next, slot.last.0 + 1);
        assert!(TokenRange { first: Token(5), last: Token(9) }.part(0).is_none());
    }
}
