//! Every place where a log can end, and every bit that can flip: each classified right, by a reckoning that knows what
//! was written.

use crate::image::Image;
use ringcore::storage::block::{BLOCK_BYTES, BlockKind, Header};
use ringcore::storage::log::Log;
use ringcore::storage::lsn::Lsn;
use ringcore::storage::recovery::{Announced, Arrival, Damage, Verdict};
use ringcore::types::Hlc;
use ringcore::types::prng::Prng;

const BLOCKS: usize = 16;

/// One segment of 64 KiB, full: a start batch and batches of 1 to 4 blocks, of which the last has `last` blocks.
fn full(last: usize) -> Image {
    let mut image = Image::new(BLOCKS as u32);
    for blocks in [1, 1, 3, 2, 1, 4, 3 - last, last].into_iter().filter(|&blocks| blocks > 0) {
        image.batch(blocks);
    }
    assert_eq!(image.log.end(), Lsn(BLOCKS as u64), "the segment is full");
    image
}

/// What lies in a block after the write stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Written,
    Untouched,
    Torn,
}

/// Cuts file 0, whose first LSN is `base`, at every `step`th byte, with `before` in the rest, and compares with what must
/// come out.
fn cut_everywhere(image: &mut Image, base: u64, before: &[u8], step: usize) {
    let written = image.files.insert(0, before.to_vec()).expect("it is there");
    let differs: Vec<usize> = (0..written.len()).filter(|&at| written[at] != before[at]).collect();
    let mut states = vec![State::Written; base as usize];
    states.resize(base as usize + BLOCKS, State::Untouched);
    let mut next = 0;
    expect_after_cut(image, &states, 0);
    for end in (step..=written.len()).step_by(step) {
        image.files.get_mut(&0).expect("it is there")[..end].copy_from_slice(&written[..end]);
        let mut changed = false;
        while differs.get(next).is_some_and(|&at| at < end) {
            let block = differs[next] / BLOCK_BYTES;
            next += 1;
            let more = differs.get(next).is_some_and(|&at| at / BLOCK_BYTES == block);
            states[base as usize + block] = if more { State::Torn } else { State::Written };
            changed = true;
        }
        // Bytes that equal what was there before change nothing.
        if changed {
            expect_after_cut(image, &states, end);
        }
    }
}

fn expect_after_cut(image: &Image, states: &[State], end: usize) {
    let of = |first: u64, end: u64| &states[first as usize..end as usize];
    let is_whole = |first: u64, end: u64| of(first, end).iter().all(|&state| state == State::Written);
    let whole = image.batches.iter().take_while(|batch| is_whole(batch.first, batch.end)).count();
    let (kept, rest) = image.batches.split_at(whole);
    let (verdict, suspect) = match rest.first() {
        None => (Verdict::Clean, false),
        Some(torn) => {
            let states = of(torn.first, torn.end);
            match (states[0], states.contains(&State::Untouched)) {
                (State::Untouched, _) => (Verdict::Clean, false),
                // Its length is known, and some of it was never written.
                (State::Written, true) => (Verdict::Cut, false),
                // Nobody can tell a torn block from a rotten one.
                (State::Written, false) | (State::Torn, _) => (Verdict::Suspect, true),
            }
        }
    };
    let recovery = image.recover();
    let end_of_kept = kept.last().map_or(image.facts.low.0, |batch| batch.end);
    assert_eq!(recovery.verdict(), verdict, "cut at byte {end}");
    assert_eq!(recovery.cut(), Lsn(end_of_kept), "cut at byte {end}");
    let damage = [Damage { from: Lsn(end_of_kept), to: None }];
    assert_eq!(recovery.damage(), &damage[..usize::from(suspect)], "cut at byte {end}");
    let expected: Vec<u64> = kept.iter().flat_map(|batch| batch.ids.clone()).collect();
    assert_eq!(image.ids(&recovery, Arrival::Replayed), expected, "cut at byte {end}");
    assert_eq!(image.ids(&recovery, Arrival::Foreign), Vec::<u64>::new(), "cut at byte {end}");
}

#[test]
fn every_cut_of_a_new_segment_is_classified_right() {
    cut_everywhere(&mut full(3), 0, &[0; BLOCKS * BLOCK_BYTES], 1);
}

#[test]
fn cuts_of_a_recycled_segment_are_classified_right() {
    let mut image = full(1);
    image.batch(BLOCKS);
    let before = image.files[&0].clone();
    let low = BLOCKS as u64;
    image.log.recycle_below(Lsn(low));
    (image.facts.low, image.facts.known) = (Lsn(low), Lsn(low));
    for blocks in [2, 1, 4, 3, 1, 3, 2] {
        image.batch(blocks);
    }
    assert_eq!((image.files.len(), image.log.end()), (2, Lsn(3 * low)), "the first file was used again");
    image.batches.retain(|batch| batch.first >= low);
    cut_everywhere(&mut image, 2 * low, &before, 16);
}

/// Flips every bit of some blocks, one after the other.
fn flip_bits(image: &mut Image, blocks: std::ops::Range<usize>) {
    let last = image.batches.last().expect("there are batches").clone();
    for bit in blocks.start * BLOCK_BYTES * 8..blocks.end * BLOCK_BYTES * 8 {
        image.files.get_mut(&0).expect("it is there")[bit / 8] ^= 1 << (bit % 8);
        let lsn = (bit / 8 / BLOCK_BYTES) as u64;
        let holds = |first: u64, end: u64| first <= lsn && lsn < end;
        let hit = image.batches.iter().find(|batch| holds(batch.first, batch.end)).expect("all is written");
        let recovery = image.recover();
        // All but the last are proven by what follows them.
        let (verdict, to, cut) = if hit.first == last.first {
            (Verdict::Suspect, None, last.first)
        } else {
            (Verdict::Corrupt, Some(Lsn(hit.end)), last.end)
        };
        assert_eq!(recovery.verdict(), verdict, "bit {bit}");
        assert_eq!(recovery.damage(), [Damage { from: Lsn(hit.first), to }], "bit {bit}");
        assert_eq!(recovery.cut(), Lsn(cut), "bit {bit}");
        assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[hit.first]), "bit {bit}");
        image.files.get_mut(&0).expect("it is there")[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_below_the_proven_end_is_corruption() {
    flip_bits(&mut full(1), 0..2);
}

#[test]
fn every_flipped_bit_of_the_last_batch_is_suspect() {
    flip_bits(&mut full(2), BLOCKS - 2..BLOCKS);
}

/// Intact blocks that contradict each other in every way, zeros and noise.
fn nonsense(prng: &mut Prng) -> Image {
    let mut image = Image::new(4);
    let lsn = |prng: &mut Prng| Lsn(if prng.chance(50) { prng.below(1 << 62) } else { prng.below(40) });
    for file in 0..prng.below(5) as u32 {
        let mut bytes = vec![0; 4 * BLOCK_BYTES];
        for (at, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let count = prng.between(1, 5) as u16;
            let index = if prng.chance(500) { 0 } else { prng.below(u64::from(count)) as u16 };
            let place = lsn(prng).0 / 4 * 4 + at as u64;
            let header = Header {
                kind: BlockKind::Data,
                used: prng.below(4_033) as u16,
                lsn: Lsn(place.max(u64::from(index))),
                incarnation: prng.between(1, 3) as u32,
                index,
                count,
                durable: lsn(prng),
                prev: lsn(prng),
                cut: Lsn(0),
                hlc_bound: Hlc(prng.next_u64()),
                first_record: prng.next_u64() as u16,
            };
            match prng.below(8) {
                0 => {}
                1 => block[..64].fill(prng.next_u64() as u8),
                _ => {
                    let cut = Lsn(if prng.chance(10) { 30 } else { 8 * u64::from(header.incarnation - 1) });
                    Header { cut, ..header }.seal(image.shape.seal, block);
                }
            }
        }
        image.files.insert(file, bytes);
    }
    image.facts.low = lsn(prng);
    image.facts.known = lsn(prng);
    image.facts.incarnation = prng.below(4) as u32;
    image.announced = prng.chance(300).then(|| Announced { incarnation: 3, durable: lsn(prng) });
    image
}

#[test]
fn contradictory_logs_are_judged_without_panic() {
    let mut judged = [0; 4];
    for seed in 0..20_000 {
        let image = nonsense(&mut Prng::new(seed));
        let Ok(recovery) = image.try_recover() else { continue };
        judged[recovery.verdict() as usize] += 1;
        for arrival in [Arrival::Replayed, Arrival::Foreign] {
            for segment in recovery.segments(arrival) {
                let mut reader = recovery.read(segment, arrival, &image.files[&segment.0]);
                while let Ok(Some(batch)) = reader.next_batch() {
                    batch.records().for_each(drop);
                }
            }
        }
        Log::start(image.shape, 1 << 20, &recovery.restart());
        Log::start(image.shape, 1 << 20, &recovery.restart_with_new_files());
    }
    assert!(judged.iter().all(|&count| count > 20), "every verdict is met: {judged:?}");
}
