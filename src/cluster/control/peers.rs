//! What is known of the other members: when they were heard, what their heartbeats said. Bounded by the members.

use crate::cluster::epoch::Epoch;
use crate::cluster::messages::Heartbeat;
use crate::types::{MemberId, Mono};
use alloc::collections::BTreeMap;

/// A member that was not heard for so long counts as absent where somebody must propose or be waited for. Milliseconds.
pub(super) const SILENT_MS: u64 = 2_000;
/// Between two epochs sent to one member, and two asked of it, at least. Milliseconds.
const NEWS_MS: u64 = 500;

/// What is known of another member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// When a message of it came last.
    pub heard: Option<Mono>,
    /// What it said last of itself.
    pub said: Heartbeat,
    news_at: Mono,
    fetch_at: Mono,
}

#[derive(Default)]
pub(super) struct Peers(BTreeMap<MemberId, Peer>);

impl Peers {
    /// Those of the epoch's members that are not this node.
    pub(super) fn follow(&mut self, epoch: &Epoch, own: MemberId) {
        self.0.retain(|member, _| epoch.member(*member).is_some());
        for member in epoch.members.iter().filter(|member| member.id != own) {
            self.0.entry(member.id).or_default();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &Peer)> {
        self.0.iter().map(|(member, peer)| (*member, peer))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = MemberId> {
        self.0.keys().copied()
    }

    pub(super) fn get(&self, member: MemberId) -> Option<&Peer> {
        self.0.get(&member)
    }

    pub(super) fn hear(&mut self, now: Mono, from: MemberId) {
        if let Some(peer) = self.0.get_mut(&from) {
            peer.heard = Some(now);
        }
    }

    pub(super) fn said(&mut self, from: MemberId, said: Heartbeat) {
        if let Some(peer) = self.0.get_mut(&from) {
            peer.said = said;
        }
    }

    pub(super) fn is_silent(&self, now: Mono, member: MemberId) -> bool {
        self.is_unheard(now, member, SILENT_MS)
    }

    /// Not heard for so many milliseconds?
    pub(super) fn is_unheard(&self, now: Mono, member: MemberId, ms: u64) -> bool {
        self.get(member).and_then(|peer| peer.heard).is_none_or(|heard| now > heard.after_ms(ms))
    }

    /// May an epoch be sent to it now? If so, that is noted.
    pub(super) fn take_news(&mut self, now: Mono, member: MemberId) -> bool {
        self.0.get_mut(&member).is_some_and(|peer| take(now, &mut peer.news_at))
    }

    /// May an epoch be asked of it now? If so, that is noted.
    pub(super) fn take_fetch(&mut self, now: Mono, member: MemberId) -> bool {
        self.0.get_mut(&member).is_some_and(|peer| take(now, &mut peer.fetch_at))
    }
}

/// Has the time come? If so, it is moved on.
pub(super) fn take(now: Mono, not_before: &mut Mono) -> bool {
    let is_due = now >= *not_before;
    if is_due {
        *not_before = now.after_ms(NEWS_MS);
    }
    is_due
}
