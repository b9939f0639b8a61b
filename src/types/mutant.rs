//! Planted bugs. Built with `--cfg mutants`, one of them can be switched on at run time, and the tests must catch it;
//! in every other build [`planted`] is `false` and the compiler removes the branch.

/// One planted bug each; the name says what is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
#[repr(u32)]
pub enum Mutant {
    // The looser recovery rules of models/wal_recovery.py.
    CutFirstBad = 1,
    NoGeneration,
    NoDurable,
    LaterProves,
    TrustLength,
    ReuseLsn,
    AckOrder,
    AckEarly,
    NoFlush,
    KnownEarly,
    InPlace,
    CutAtJump,
    CutOnce,
    // Of one node.
    RetriedFlush,
    NoDirectorySync,
    RelativeTtl,
    ReadBeforeDurable,
    IdentityNotLogged,
    FloorForgotten,
    ExpiryUnhappens,
    SourceDroppedEarly,
    SegmentRecycledEarly,
    PartBeforeLog,
    HlcBoundIgnored,
    EndToldEarly,
    // Between nodes; most are of models/quorum_register.py.
    OneIsEnough,
    SupersededCounts,
    UnknownIsNever,
    ForgottenIsNever,
    RestampEarly,
    NeverUnflushed,
    AnswersUnflushed,
    StoreBlindly,
    NoWriteBack,
    SupersededWriteBack,
    ExpiryUnhappensAtAnother,
    // Of agreement on epochs.
    PaxosAcceptBelowPromise,
    PaxosPromiseForgotten,
    PaxosNonVoterCounted,
    PaxosAcceptedIgnored,
}

impl Mutant {
    /// Every planted bug, in the order of its number.
    pub const ALL: [Mutant; 40] = [
        Mutant::CutFirstBad,
        Mutant::NoGeneration,
        Mutant::NoDurable,
        Mutant::LaterProves,
        Mutant::TrustLength,
        Mutant::ReuseLsn,
        Mutant::AckOrder,
        Mutant::AckEarly,
        Mutant::NoFlush,
        Mutant::KnownEarly,
        Mutant::InPlace,
        Mutant::CutAtJump,
        Mutant::CutOnce,
        Mutant::RetriedFlush,
        Mutant::NoDirectorySync,
        Mutant::RelativeTtl,
        Mutant::ReadBeforeDurable,
        Mutant::IdentityNotLogged,
        Mutant::FloorForgotten,
        Mutant::ExpiryUnhappens,
        Mutant::SourceDroppedEarly,
        Mutant::SegmentRecycledEarly,
        Mutant::PartBeforeLog,
        Mutant::HlcBoundIgnored,
        Mutant::EndToldEarly,
        Mutant::OneIsEnough,
        Mutant::SupersededCounts,
        Mutant::UnknownIsNever,
        Mutant::ForgottenIsNever,
        Mutant::RestampEarly,
        Mutant::NeverUnflushed,
        Mutant::AnswersUnflushed,
        Mutant::StoreBlindly,
        Mutant::NoWriteBack,
        Mutant::SupersededWriteBack,
        Mutant::ExpiryUnhappensAtAnother,
        Mutant::PaxosAcceptBelowPromise,
        Mutant::PaxosPromiseForgotten,
        Mutant::PaxosNonVoterCounted,
        Mutant::PaxosAcceptedIgnored,
    ];
}

#[cfg(mutants)]
mod switch {
    use core::sync::atomic::AtomicU32;
    pub(super) static PLANTED: AtomicU32 = AtomicU32::new(0);
}

/// Switches one planted bug on, or all off. Whole process: run one mutant per process, or tests one after the other.
#[cfg(mutants)]
pub fn plant(mutant: Option<Mutant>) {
    switch::PLANTED.store(mutant.map_or(0, |m| m as u32), core::sync::atomic::Ordering::Relaxed);
}

/// Is this bug switched on?
#[cfg(mutants)]
#[inline]
pub fn planted(mutant: Mutant) -> bool {
    switch::PLANTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as u32
}

/// Is this bug switched on? Never, in this build.
#[cfg(not(mutants))]
#[inline(always)]
pub const fn planted(_: Mutant) -> bool {
    false
}
