//! The second checker: is there any order of a key's operations that agrees with real time and explains every answer?
//! It knows values only: no version, no replica, no rule of the protocol. If it finds no order, no argument about versions
//! can save the answers; if it finds one, each key was linearizable.
//!
//! A search over orders (Wing and Gong), made short by what a register with unique values allows without loss:
//! - a read that returns the present value is taken at once: it changes nothing;
//! - a write that nobody read is taken just before another write: nobody could have seen it;
//! - a write of unknown outcome that nobody read never happened; one that was read ended before its first reader did;
//! - of deletes and ends of unknown outcome, the one asked for first is as good as any.
//!
//! "Nothing there" is explained by the beginning, by a delete, or by the end of a value that has one: ends come at any
//! time here; whether they come at the right time is the business of the other checker.

use std::collections::{BTreeMap, BTreeSet};

/// Orders tried for one key at most: beyond, nothing is decided.
const ORDERS_MAX: usize = 300_000;

/// What an operation did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Did {
    /// Wrote this value, never written before; does it have an end?
    Put { value: u64, ends: bool },
    /// Wrote that there is nothing.
    Delete,
    /// Returned this value.
    Found(u64),
    /// Returned that there is nothing.
    Nothing,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed {
    pub(crate) did: Did,
    /// A moment before it began.
    pub(crate) begun: u64,
    /// A moment after it was answered; None: it was in doubt.
    pub(crate) ended: Option<u64>,
}

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    Linearizable,
    /// Why not.
    Wrong(String),
    /// Too many orders to try.
    Undecided,
}

/// A key's content between two operations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Content {
    Nothing,
    Value(u64),
    /// A value that nobody has read.
    Unread,
}

/// What may have made the key empty, though nobody was told.
struct Emptying {
    begun: u64,
}

struct Search<'a> {
    /// All that certainly happened, by their beginnings.
    deeds: Vec<Deed>,
    ending: BTreeSet<u64>,
    read: BTreeSet<u64>,
    emptying: &'a [Emptying],
    seen: BTreeSet<State>,
    furthest: usize,
    stuck_at: Option<Deed>,
}

/// How far an order has got.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// All before this one are done.
    first: usize,
    /// Of those behind it, the ones that are done.
    done: BTreeSet<usize>,
    content: Content,
    /// Of what may have emptied the key, so many have.
    emptied: usize,
}

/// Judges the operations of one key.
pub(crate) fn judge(deeds: &[Deed]) -> Judgement {
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    for deed in deeds {
        if let (Did::Found(value), Some(ended)) = (deed.did, deed.ended) {
            let first = first_read.entry(value).or_insert(ended);
            *first = ended.min(*first);
        }
    }
    let (mut certain, mut emptying, mut ending) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut written = BTreeSet::new();
    for deed in deeds {
        match (deed.did, deed.ended) {
            (Did::Put { value, ends }, ended) => {
                if !written.insert(value) {
                    return Judgement::Wrong(format!("value {value} was written twice"));
                }
                if ends {
                    ending.insert(value);
                }
                match (ended, first_read.get(&value)) {
                    (Some(ended), None) => certain.push(Deed { ended: Some(ended), ..*deed }),
                    (ended, Some(read)) => {
                        certain.push(Deed {
                            ended: Some(ended.map_or(*read, |ended| ended.min(*read))),
                            ..*deed
                        });
                    }
                    (None, None) if ends => emptying.push(Emptying { begun: deed.begun }),
                    (None, None) => {}
                }
            }
            (Did::Delete, None) => emptying.push(Emptying { begun: deed.begun }),
            (Did::Delete | Did::Found(_) | Did::Nothing, Some(_)) => certain.push(*deed),
            // A read without an answer told nobody anything.
            (Did::Found(_) | Did::Nothing, None) => {}
        }
    }
    if let Some(value) = first_read.keys().find(|value| !written.contains(value)) {
        return Judgement::Wrong(format!("value {value} was read, and nobody wrote it"));
    }
    certain.sort_by_key(|deed| deed.begun);
    emptying.sort_by_key(|emptying: &Emptying| emptying.begun);
    let read = first_read.into_keys().collect();
    let (seen, emptying) = (BTreeSet::new(), &emptying[..]);
    let mut search = Search { deeds: certain, ending, read, emptying, seen, furthest: 0, stuck_at: None };
    search.run()
}

impl Search<'_> {
    fn run(&mut self) -> Judgement {
        let begin = State { first: 0, done: BTreeSet::new(), content: Content::Nothing, emptied: 0 };
        let mut open = vec![begin];
        while let Some(mut state) = open.pop() {
            self.read_all(&mut state);
            if state.first == self.deeds.len() {
                return Judgement::Linearizable;
            }
            if !self.seen.insert(state.clone()) {
                continue;
            }
            if self.seen.len() > ORDERS_MAX {
                return Judgement::Undecided;
            }
            let candidates = self.candidates(&state);
            self.note(&state, &candidates);
            self.branch(&state, &candidates, &mut open);
        }
        Judgement::Wrong(format!("no order explains {:?}", self.stuck_at))
    }

    /// What can come next: it began before any that is left ended.
    fn candidates(&self, state: &State) -> Vec<usize> {
        let left = || (state.first..self.deeds.len()).filter(|at| !state.done.contains(at));
        let mut frontier = u64::MAX;
        for at in left() {
            if self.deeds[at].begun > frontier {
                break;
            }
            frontier = frontier.min(self.deeds[at].ended.expect("certain ones have an end"));
        }
        left().take_while(|at| self.deeds[*at].begun < frontier).collect()
    }

    /// Takes every read that the present content explains.
    fn read_all(&self, state: &mut State) {
        loop {
            let explained = |at: &usize| match self.deeds[*at].did {
                Did::Found(value) => state.content == Content::Value(value),
                Did::Nothing => state.content == Content::Nothing,
                Did::Put { .. } | Did::Delete => false,
            };
            let taken: Vec<usize> = self.candidates(state).into_iter().filter(explained).collect();
            if taken.is_empty() {
                return;
            }
            taken.into_iter().for_each(|at| take(state, at));
        }
    }

    fn branch(&self, state: &State, candidates: &[usize], open: &mut Vec<State>) {
        let is_unread = |at: &&usize| match self.deeds[**at].did {
            Did::Put { value, ends } => !ends && !self.read.contains(&value),
            Did::Delete | Did::Found(_) | Did::Nothing => false,
        };
        let mut hidden = state.clone();
        let unread: Vec<usize> = candidates.iter().filter(is_unread).copied().collect();
        unread.iter().for_each(|at| take(&mut hidden, *at));
        if !unread.is_empty() {
            open.push(State { content: Content::Unread, ..hidden.clone() });
        }
        let nothing_read = candidates.iter().any(|at| self.deeds[*at].did == Did::Nothing);
        if nothing_read {
            if let Content::Value(value) = state.content
                && self.ending.contains(&value)
            {
                open.push(State { content: Content::Nothing, ..state.clone() });
            }
            let frontier = candidates.iter().filter_map(|at| self.deeds[*at].ended).min().unwrap_or(u64::MAX);
            if self.emptying.get(state.emptied).is_some_and(|emptying| emptying.begun < frontier) {
                let emptied = hidden.emptied + 1;
                open.push(State { content: Content::Nothing, emptied, ..hidden.clone() });
            }
        }
        for at in candidates.iter().filter(|at| !unread.contains(at)) {
            let content = match self.deeds[*at].did {
                Did::Put { value, .. } => Content::Value(value),
                Did::Delete => Content::Nothing,
                Did::Found(_) | Did::Nothing => continue,
            };
            let mut next = State { content, ..hidden.clone() };
            take(&mut next, *at);
            open.push(next);
        }
    }

    /// Remembers where the longest order ended: that is what to show.
    fn note(&mut self, state: &State, candidates: &[usize]) {
        let length = state.first + state.done.len();
        if length >= self.furthest {
            self.furthest = length;
            self.stuck_at = candidates.first().map(|at| self.deeds[*at]);
        }
    }
}

fn take(state: &mut State, at: usize) {
    state.done.insert(at);
    while state.done.remove(&state.first) {
        state.first += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringcore::types::prng::Prng;

    fn put(value: u64, begun: u64, ended: u64) -> Deed {
        Deed { did: Did::Put { value, ends: false }, begun, ended: Some(ended) }
    }

    fn lasting(value: u64, begun: u64, ended: u64) -> Deed {
        Deed { did: Did::Put { value, ends: true }, begun, ended: Some(ended) }
    }

    fn delete(begun: u64, ended: u64) -> Deed {
        Deed { did: Did::Delete, begun, ended: Some(ended) }
    }

    fn found(value: u64, begun: u64, ended: u64) -> Deed {
        Deed { did: Did::Found(value), begun, ended: Some(ended) }
    }

    fn nothing(begun: u64, ended: u64) -> Deed {
        Deed { did: Did::Nothing, begun, ended: Some(ended) }
    }

    fn doubtful(deed: Deed) -> Deed {
        Deed { ended: None, ..deed }
    }

    fn is_wrong(deeds: &[Deed]) -> bool {
        matches!(judge(deeds), Judgement::Wrong(_))
    }

    #[test]
    fn histories_that_no_order_explains_are_refused() {
        // Stale: the second write had ended before the read began.
        assert!(is_wrong(&[put(1, 1, 2), put(2, 3, 4), found(1, 5, 6)]));
        // Lost: an acknowledged write, and nothing there.
        assert!(is_wrong(&[put(1, 1, 2), nothing(3, 4)]));
        // Seen, gone, seen again.
        assert!(is_wrong(&[
            put(1, 1, 9),
            put(2, 1, 9),
            found(1, 10, 11),
            found(2, 12, 13),
            found(1, 14, 15)
        ]));
        // Two readers saw two concurrent writes in different orders.
        let flip = [put(1, 1, 20), put(2, 1, 20), found(1, 2, 3), found(2, 4, 5), found(1, 6, 7)];
        assert!(is_wrong(&flip));
        // Thin air, and from the future.
        assert!(is_wrong(&[found(7, 1, 2)]));
        assert!(is_wrong(&[found(7, 1, 2), put(7, 3, 4)]));
        // Deleted, and back.
        assert!(is_wrong(&[put(1, 1, 2), delete(3, 4), found(1, 5, 6)]));
        // Ended, and back.
        assert!(is_wrong(&[lasting(1, 1, 2), nothing(3, 4), found(1, 5, 6)]));
        // A write in doubt takes effect once: seen, overwritten, seen again.
        let twice = [doubtful(put(1, 1, 1)), found(1, 2, 3), put(2, 4, 5), found(2, 6, 7), found(1, 8, 9)];
        assert!(is_wrong(&twice));
        // A deletion in doubt empties the key once.
        let once = [
            put(1, 1, 2),
            doubtful(delete(3, 3)),
            nothing(4, 5),
            put(2, 6, 7),
            found(2, 8, 9),
            nothing(10, 11),
        ];
        assert!(is_wrong(&once));
        // One in doubt that had not begun explains nothing.
        assert!(is_wrong(&[put(1, 1, 2), nothing(3, 4), doubtful(delete(5, 5))]));
    }

    #[test]
    fn histories_that_an_order_explains_are_accepted() {
        let right: [&[Deed]; 10] = [
            &[],
            &[nothing(1, 2), put(1, 3, 4), found(1, 5, 6)],
            // A read beside a write sees either.
            &[put(1, 1, 2), put(2, 3, 9), found(1, 4, 5), found(2, 6, 7)],
            &[put(1, 1, 2), put(2, 3, 9), found(2, 4, 5), found(2, 10, 11)],
            // In doubt: much later, or never.
            &[doubtful(put(1, 1, 1)), put(2, 2, 3), found(2, 4, 5), found(1, 6, 7)],
            &[doubtful(put(1, 1, 1)), put(2, 2, 3), found(2, 4, 5), found(2, 6, 7)],
            &[put(1, 1, 2), doubtful(delete(3, 3)), found(1, 4, 5), nothing(6, 7)],
            // Ends come at any time, also of what was never seen and never acknowledged.
            &[lasting(1, 1, 2), found(1, 3, 4), nothing(5, 6), nothing(7, 8)],
            &[put(1, 1, 2), doubtful(lasting(2, 3, 3)), nothing(4, 5)],
            // Three writes at once, of which one is never seen.
            &[put(1, 1, 9), put(2, 1, 9), put(3, 1, 9), found(3, 2, 3), found(1, 10, 11)],
        ];
        for deeds in right {
            assert_eq!(judge(deeds), Judgement::Linearizable, "{deeds:?}");
        }
    }

    /// Operations that take effect one after the other, each at a moment of its own; answers lost, moments stretched.
    fn drawn(prng: &mut Prng) -> Vec<Deed> {
        let (mut deeds, mut content, mut ends) = (Vec::new(), None, false);
        for nth in 0..40 {
            let at = 100 + nth * 10;
            let (begun, ended) = (at - prng.below(60), at + 1 + prng.below(60));
            let mut deed = match (prng.below(10), content) {
                (0..4, _) => {
                    ends = prng.chance(300);
                    content = Some(nth);
                    Deed { did: Did::Put { value: nth, ends }, begun, ended: Some(ended) }
                }
                (4..6, _) => {
                    content = None;
                    delete(begun, ended)
                }
                (_, Some(_)) if ends && prng.chance(300) => {
                    content = None;
                    nothing(begun, ended)
                }
                (_, Some(value)) => found(value, begun, ended),
                (_, None) => nothing(begun, ended),
            };
            if prng.chance(150) {
                deed.ended = None;
            }
            deeds.push(deed);
        }
        deeds
    }

    #[test]
    fn drawn_histories_are_accepted_and_what_is_broken_in_them_is_seen() {
        let mut prng = Prng::new(5);
        let mut refused = 0;
        for _ in 0..2_000 {
            let mut deeds = drawn(&mut prng);
            assert_eq!(judge(&deeds), Judgement::Linearizable, "{deeds:?}");
            // Two reads exchange what they returned: mostly impossible.
            let answered = |deed: &Deed| matches!(deed.did, Did::Found(_)) && deed.ended.is_some();
            let reads: Vec<usize> = (0..deeds.len()).filter(|at| answered(&deeds[*at])).collect();
            if let (Some(first), Some(last)) = (reads.first(), reads.last()) {
                let (a, b) = (deeds[*first].did, deeds[*last].did);
                (deeds[*first].did, deeds[*last].did) = (b, a);
                refused += u64::from(a != b && is_wrong(&deeds));
            }
        }
        assert!(refused > 1_000, "{refused}");
    }
}
