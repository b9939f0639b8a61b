//! The recovery rule, one sentence at a time.

use crate::image::{BOUND, Image};
use ringcore::storage::block::{BLOCK_BYTES, BlockKind, Header, NO_RECORD};
use ringcore::storage::lsn::Lsn;
use ringcore::storage::recovery::{Announced, Arrival, Damage, ScanError, Verdict};
use ringcore::storage::segment::SegmentId;

/// LSN 0: start. 1: one block. 2, 3: two blocks. 4: one block, the last.
fn short() -> Image {
    let mut image = Image::new(8);
    for blocks in [1, 2, 1] {
        image.batch(blocks);
    }
    image
}

#[test]
fn undamaged_log_is_clean_and_complete() {
    let image = short();
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Clean, Lsn(5)));
    assert_eq!(recovery.proven(), Lsn(4), "the last batch is proven by nothing");
    assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[]));
    assert_eq!(recovery.batches(), 4);
}

#[test]
fn close_batch_proves_the_last_one() {
    let mut image = short();
    image.log.tick();
    image.log.tick();
    image.write();
    image.rot(4);
    let recovery = image.recover();
    assert_eq!(recovery.verdict(), Verdict::Corrupt);
    assert_eq!(recovery.damage(), [Damage { from: Lsn(4), to: Some(Lsn(5)) }]);
}

#[test]
fn peers_memory_proves_the_last_batch() {
    let mut image = short();
    image.rot(4);
    assert_eq!(image.recover().verdict(), Verdict::Suspect);
    image.announced = Some(Announced { incarnation: 1, durable: Lsn(5) });
    assert_eq!(image.recover().verdict(), Verdict::Corrupt);
}

#[test]
fn what_peers_saw_of_an_earlier_incarnation_was_judged_before() {
    let mut image = short();
    image.unwrite(4);
    let restart = image.recover().restart();
    assert_eq!(restart.cut, Lsn(4));
    image.start(&restart);
    image.announced = Some(Announced { incarnation: 1, durable: Lsn(5) });
    assert_eq!(image.recover().verdict(), Verdict::Clean);
    image.announced = Some(Announced { incarnation: 2, durable: Lsn(900) });
    assert_eq!(image.recover().verdict(), Verdict::Corrupt);
    assert_eq!(image.recover().restart().first, Lsn(904), "no announced number is used again");
}

#[test]
fn manifest_proves_what_it_knows() {
    let mut image = short();
    image.unwrite(4);
    assert_eq!(image.recover().verdict(), Verdict::Clean);
    image.facts.known = Lsn(5);
    let recovery = image.recover();
    assert_eq!(recovery.verdict(), Verdict::Corrupt);
    assert_eq!(recovery.damage(), [Damage { from: Lsn(4), to: Some(Lsn(5)) }]);
}

#[test]
fn batch_with_an_unwritten_block_is_cut_and_so_is_what_follows() {
    for unwritten in [2, 3] {
        let mut image = short();
        image.unwrite(unwritten);
        // Written while the one before was still in flight: it proves only what was durable then.
        rewrite(&mut image, 4, Header { prev: Lsn(4), ..data(4, 1) });
        let recovery = image.recover();
        assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Cut, Lsn(2)), "{unwritten}");
        assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[2, 4]));
    }
}

#[test]
fn batches_beyond_a_suspect_one_are_kept_as_foreign() {
    let mut image = short();
    image.rot(2);
    rewrite(&mut image, 4, data(4, 2));
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Suspect, Lsn(2)));
    assert_eq!(recovery.damage(), [Damage { from: Lsn(2), to: None }]);
    assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[2, 4]));
    assert_eq!(recovery.segments(Arrival::Foreign).collect::<Vec<_>>(), [SegmentId(0)]);
    assert_eq!(recovery.salvage().batches_after, 1);
}

#[test]
fn batches_after_corruption_go_on_in_order() {
    let mut image = short();
    image.rot(1);
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Corrupt, Lsn(5)));
    assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[1]));
    let salvage = recovery.salvage();
    assert_eq!(salvage.damage, [Damage { from: Lsn(1), to: Some(Lsn(2)) }]);
    assert_eq!((salvage.batches_after, salvage.last_intact), (2, BOUND));
}

#[test]
fn restart_cuts_after_the_last_whole_batch_and_begins_above_everything() {
    let mut image = short();
    image.unwrite(4);
    let recovery = image.recover();
    let restart = recovery.restart();
    assert_eq!((restart.incarnation, restart.cut, restart.first), (2, Lsn(4), Lsn(8)));
    assert_eq!(restart.segments, [(SegmentId(0), Some(Lsn(0)))]);
    assert_eq!((restart.sync, restart.set_aside), (vec![SegmentId(0)], vec![]));
    assert_eq!(restart.next_segment, SegmentId(1));
    let aside = recovery.restart_with_new_files();
    assert_eq!((aside.cut, aside.first, aside.segments), (Lsn(8), Lsn(8), vec![]));
}

#[test]
fn cut_batches_stay_cut_whichever_copy_of_the_cut_survives() {
    let mut image = short();
    image.unwrite(2);
    rewrite(&mut image, 4, data(4, 1));
    let restart = image.recover().restart();
    assert_eq!(restart.cut, Lsn(2));
    image.start(&restart);
    // As if what was cut had come back whole.
    let mut late = short();
    image.block(2).copy_from_slice(late.block(2));
    let both = image.recover();
    assert_eq!(image.ids(&both, Arrival::Replayed), image.ids_but(&[2, 4]));
    let cuts = std::mem::take(&mut image.facts.cuts);
    let in_blocks = image.recover();
    assert_eq!(image.ids(&in_blocks, Arrival::Replayed), image.ids_but(&[2, 4]));
    (image.facts.cuts, image.facts.known) = (cuts, Lsn(2));
    image.rot(8);
    let in_manifest = image.recover();
    assert_eq!(image.ids(&in_manifest, Arrival::Replayed), image.ids_but(&[2, 4]));
    assert_eq!(image.ids(&in_manifest, Arrival::Foreign), Vec::<u64>::new());
}

#[test]
fn file_below_the_low_lsn_is_free_unless_it_is_damaged() {
    let mut image = Image::new(8);
    for _ in 0..3 {
        image.batch(5);
    }
    image.facts.low = Lsn(13);
    image.facts.known = Lsn(13);
    let restart = image.recover().restart();
    let expected = [(SegmentId(0), None), (SegmentId(1), Some(Lsn(8))), (SegmentId(2), Some(Lsn(16)))];
    assert_eq!(restart.segments, expected);
    // It may have begun a newer life.
    image.rot(3);
    let recovery = image.recover();
    assert_eq!(recovery.verdict(), Verdict::Suspect);
    let restart = recovery.restart();
    assert_eq!(restart.set_aside, [SegmentId(0)]);
    assert_eq!(restart.segments, expected[1..]);
    image.files.remove(&0);
    assert_eq!(image.recover().verdict(), Verdict::Clean);
}

#[test]
fn blocks_of_an_earlier_life_count_as_unwritten() {
    let mut image = Image::new(8);
    for blocks in [7, 8] {
        image.batch(blocks);
    }
    let old = image.files[&0].clone();
    // The first file is recycled for LSN 16, then only the first block of its next batch arrives.
    image.log.recycle_below(Lsn(8));
    image.facts.low = Lsn(8);
    image.batch(1);
    let file = image.files.get_mut(&0).expect("it is there");
    assert!(file[..BLOCK_BYTES] != old[..BLOCK_BYTES] && file[BLOCK_BYTES..] == old[BLOCK_BYTES..]);
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Clean, Lsn(17)));
    assert_eq!(recovery.restart().segments, [(SegmentId(0), Some(Lsn(16))), (SegmentId(1), Some(Lsn(8)))]);
}

#[test]
fn block_that_went_astray_is_damage() {
    let mut image = short();
    let astray = image.block(1).to_vec();
    image.block(3).copy_from_slice(&astray);
    let recovery = image.recover();
    assert_eq!(recovery.verdict(), Verdict::Corrupt);
    assert_eq!(recovery.damage(), [Damage { from: Lsn(2), to: Some(Lsn(4)) }]);
}

#[test]
fn write_of_a_killed_process_that_lands_late_in_another_file_is_void() {
    let mut image = short();
    image.batch(3);
    let restart = image.recover().restart();
    image.start(&restart);
    let first = restart.first.0;
    let stray = {
        let mut other = Image::new(8);
        for blocks in [7, 1] {
            other.batch(blocks);
        }
        other.files.remove(&1).expect("it is there")
    };
    assert_eq!(first, 8);
    image.files.insert(9, stray);
    let recovery = image.recover();
    assert_eq!(recovery.verdict(), Verdict::Clean);
    assert_eq!(image.ids(&recovery, Arrival::Replayed), image.ids_but(&[]));
}

#[test]
fn truncated_file_is_damage_and_a_longer_one_is_refused() {
    let mut image = short();
    let file = image.files.get_mut(&0).expect("it is there");
    file.truncate(BLOCK_BYTES * 2 + 5);
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.cut()), (Verdict::Suspect, Lsn(2)));
    image.files.get_mut(&0).expect("it is there").resize(9 * BLOCK_BYTES, 0);
    assert_eq!(image.try_recover().err(), Some(ScanError::TooLong { segment: SegmentId(0) }));
}

#[test]
fn newer_format_is_refused() {
    let mut image = short();
    // What the seal starts from: cluster, member, core, layout.
    let ids = [&[1; 16][..], &[7, 0, 0, 0], &[3, 0], &[1, 0, 0, 0]].concat();
    let block = image.block(3);
    block[4] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&ids), &block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(image.try_recover().err(), Some(ScanError::Foreign { segment: SegmentId(0), block: 3 }));
}

#[test]
fn mixed_histories_are_refused() {
    let mut image = short();
    rewrite(&mut image, 4, Header { cut: Lsn(3), ..data(4, 1) });
    assert_eq!(image.try_recover().err(), Some(ScanError::Contradiction { incarnation: 1 }));
    image.facts.cuts = vec![(1, Lsn(9))];
    assert_eq!(image.try_recover().err(), Some(ScanError::Contradiction { incarnation: 1 }));
}

#[test]
fn block_that_changes_between_the_passes_is_noticed() {
    let mut image = short();
    let recovery = image.recover();
    image.rot(3);
    let mut reader = recovery.read(SegmentId(0), Arrival::Replayed, &image.files[&0]);
    assert!(reader.next_batch().is_ok_and(|batch| batch.is_some()));
    assert!(reader.next_batch().is_ok_and(|batch| batch.is_some()));
    assert_eq!(reader.next_batch().map(drop).unwrap_err().lsn, Lsn(3));
}

#[test]
fn empty_directory_begins_at_zero_and_a_lost_one_does_not() {
    let mut image = short();
    image.files.clear();
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.restart().first), (Verdict::Clean, Lsn(0)));
    image.facts.known = Lsn(5);
    let recovery = image.recover();
    assert_eq!((recovery.verdict(), recovery.restart().first), (Verdict::Corrupt, Lsn(8)));
    assert_eq!(recovery.damage(), [Damage { from: Lsn(0), to: Some(Lsn(5)) }]);
}

/// The header of a one-block batch of the first incarnation.
fn data(lsn: u64, durable: u64) -> Header {
    Header {
        kind: BlockKind::Data,
        used: 0,
        lsn: Lsn(lsn),
        incarnation: 1,
        index: 0,
        count: 1,
        durable: Lsn(durable),
        prev: Lsn(lsn),
        cut: Lsn(0),
        hlc_bound: BOUND,
        first_record: NO_RECORD,
    }
}

/// Puts an empty batch where another was.
fn rewrite(image: &mut Image, lsn: u64, header: Header) {
    let seal = image.shape.seal;
    let block = image.block(lsn);
    block.fill(0);
    header.seal(seal, block);
}
