//! Anti-entropy and collection in protobuf, both ways: what has lists, and their limits.

use super::wire::{WireError, key, version};
use crate::replication::messages::{Dead, LISTED_MAX, PARTS, TokenRange};
use crate::rpc::proto::peer as pb;
use crate::storage::digest::Digest;
use crate::types::{Limits, Token, Version};

/// Dead records of one round.
const DEAD_MAX: usize = 1_024;

pub(super) fn from_dead(listed: Vec<Dead>) -> Vec<pb::collect::Dead> {
    let dead = |Dead { key, version, expires_at_ms }| pb::collect::Dead {
        key,
        clock: version.hlc.0,
        member: version.member.0,
        expires_at_ms,
    };
    listed.into_iter().map(dead).collect()
}

pub(super) fn to_dead(listed: Vec<pb::collect::Dead>, limits: &Limits) -> Result<Vec<Dead>, WireError> {
    within(listed.len(), DEAD_MAX)?;
    let dead = |dead: pb::collect::Dead| {
        Ok(Dead {
            key: key(dead.key, limits)?,
            version: version(dead.clock, dead.member),
            expires_at_ms: dead.expires_at_ms,
        })
    };
    listed.into_iter().map(dead).collect()
}

pub(super) fn from_parts(range: TokenRange, digests: &[Digest]) -> pb::Parts {
    pb::Parts {
        first: range.first.0,
        last: range.last.0,
        digests: digests.iter().map(|digest| digest.0).collect(),
    }
}

pub(super) fn to_parts(parts: pb::Parts) -> Result<(TokenRange, Vec<Digest>), WireError> {
    if parts.digests.len() != PARTS {
        return Err(WireError::Missing("sum for each piece"));
    }
    Ok((range(parts.first, parts.last)?, parts.digests.into_iter().map(Digest).collect()))
}

pub(super) fn from_listing(range: TokenRange, entries: &[(Token, Version)]) -> pb::Listing {
    pb::Listing {
        first: range.first.0,
        last: range.last.0,
        tokens: entries.iter().map(|(token, _)| token.0).collect(),
        clocks: entries.iter().map(|(_, version)| version.hlc.0).collect(),
        members: entries.iter().map(|(_, version)| version.member.0).collect(),
    }
}

pub(super) fn to_listing(listing: pb::Listing) -> Result<(TokenRange, Vec<(Token, Version)>), WireError> {
    let pb::Listing { first, last, tokens, clocks, members } = listing;
    within(tokens.len(), LISTED_MAX)?;
    if clocks.len() != tokens.len() || members.len() != tokens.len() {
        return Err(WireError::Missing("version for each token"));
    }
    let versions = clocks.into_iter().zip(members).map(|(clock, member)| version(clock, member));
    Ok((range(first, last)?, tokens.into_iter().map(Token).zip(versions).collect()))
}

pub(super) fn to_tokens(tokens: Vec<u64>) -> Result<Vec<Token>, WireError> {
    within(tokens.len(), LISTED_MAX)?;
    Ok(tokens.into_iter().map(Token).collect())
}

fn range(first: u64, last: u64) -> Result<TokenRange, WireError> {
    if first > last {
        return Err(WireError::Missing("range that begins before it ends"));
    }
    Ok(TokenRange { first: Token(first), last: Token(last) })
}

fn within(got: usize, limit: usize) -> Result<(), WireError> {
    if got > limit { Err(WireError::TooLong { what: "list", got, limit }) } else { Ok(()) }
}
