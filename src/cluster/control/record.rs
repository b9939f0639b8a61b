//! The acceptor's memory as a record of the log. Self-contained: the latest one counts.
//!
//! `1 | number 8 | promised: round 8, member 4 | the accepted ballot: round 8, member 4 | the epoch accepted under it, the
//! rest`. Integers are little-endian; no epoch = nothing was accepted.

use crate::cluster::epoch::{Epoch, EpochError};
use crate::cluster::paxos::{Acceptor, Ballot};
use crate::types::MemberId;
use alloc::sync::Arc;
use alloc::vec::Vec;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 33;

pub(super) fn encode(acceptor: &Acceptor<Arc<Epoch>>) -> Vec<u8> {
    let mut out = alloc::vec![FORMAT];
    out.extend_from_slice(&acceptor.number().to_le_bytes());
    let accepted = acceptor.accepted().as_ref();
    for ballot in [acceptor.promised(), accepted.map(|(ballot, _)| *ballot).unwrap_or_default()] {
        out.extend_from_slice(&ballot.round.to_le_bytes());
        out.extend_from_slice(&ballot.member.0.to_le_bytes());
    }
    out.extend(accepted.into_iter().flat_map(|(_, epoch)| epoch.encode()));
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Acceptor<Arc<Epoch>>, EpochError> {
    let (head, epoch) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(EpochError::Damaged)?;
    if head[0] != FORMAT {
        return Err(EpochError::UnknownFormat(head[0]));
    }
    let u64_at = |at: usize| {
        let bytes = head[at..].first_chunk().expect("the head is longer");
        u64::from_le_bytes(*bytes)
    };
    let ballot_at = |at: usize| {
        let member = head[at + 8..].first_chunk().expect("the head is longer");
        Ballot { round: u64_at(at), member: MemberId(u32::from_le_bytes(*member)) }
    };
    let number = u64_at(1);
    let accepted = match epoch {
        [] => None,
        bytes => Some((ballot_at(21), Arc::new(Epoch::decode(bytes)?))),
    };
    if accepted.as_ref().is_some_and(|(_, epoch)| epoch.number != number) {
        return Err(EpochError::Damaged);
    }
    Ok(Acceptor::recovered(number, ballot_at(9), accepted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    #[test]
    fn acceptor_survives_its_record_and_damage_is_refused() {
        let ballot = |round, member| Ballot { round, member: MemberId(member) };
        let mut acceptor = Acceptor::new(1);
        assert_eq!(decode(&encode(&acceptor)), Ok(acceptor.clone()));
        assert_eq!(acceptor.prepare(ballot(3, 2)), Ok(None));
        assert_eq!(decode(&encode(&acceptor)), Ok(acceptor.clone()));
        let epoch = Arc::new(Epoch::of_members(ClusterId([1; 16]), 3, 2));
        assert_eq!(acceptor.accept(ballot(3, 2), epoch), Ok(()));
        assert_eq!(
            acceptor.prepare(ballot(4, 1)).map(|taken| taken.map(|(ballot, _)| ballot)),
            Ok(Some(ballot(3, 2)))
        );
        let bytes = encode(&acceptor);
        assert_eq!(decode(&bytes), Ok(acceptor));
        for cut in (0..HEAD_BYTES).chain([HEAD_BYTES + 1, bytes.len() - 1]) {
            assert!(decode(&bytes[..cut]).is_err());
        }
        let mut other = bytes.clone();
        other[1] = 2;
        assert_eq!(decode(&other), Err(EpochError::Damaged));
        other[0] = 9;
        assert_eq!(decode(&other), Err(EpochError::UnknownFormat(9)));
    }
}
