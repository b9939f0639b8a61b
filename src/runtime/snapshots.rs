//! Rewrites a core's snapshot parts in turn, in the background, whenever the log has grown enough.

use super::clock;
use super::core::Core;
use crate::node::image::Image;
use crate::rpc::backend::Backend;
use crate::storage::block::BLOCK_BYTES;
use crate::storage::disk::{Disk, DiskErrorKind};
use crate::storage::lsn::Lsn;
use crate::storage::manifest::Manifest;
use crate::storage::part::PartIndex;
use crate::storage::snapshot::{DueRule, rewrite_part};
use std::time::Duration;

/// How often it is looked whether a part is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the disk's free space is looked at.
const MEASURE_EVERY_LOOKS: u64 = 20;

/// The background writer of one core's parts.
pub(crate) struct Snapshots {
    core: Core,
    manifest: Manifest,
    rule: DueRule,
    /// Where the log ended when the last part was begun.
    begun_at: Lsn,
    /// Parts to be written whatever the log says: old layouts wait to be dropped.
    owed: usize,
    /// Old layouts are read at each start until core 0 has heard that every core has written its parts.
    untold: bool,
}

impl Snapshots {
    /// For a core that has just opened with this manifest. With old layouts to drop, its missing parts are owed.
    pub(crate) fn new(core: Core, manifest: Manifest, has_sources: bool) -> Snapshots {
        let missing = PartIndex::all().filter(|part| manifest.part(*part).is_none()).count();
        let owed = if has_sources { missing } else { 0 };
        let begun_at = manifest.known();
        Snapshots { core, manifest, rule: DueRule::default(), begun_at, owed, untold: has_sources }
    }

    /// Writes parts as they fall due, until cancelled.
    pub(crate) async fn run(mut self) {
        let mut looks = 0;
        loop {
            if looks % MEASURE_EVERY_LOOKS == 0
                && let Ok(bytes) = self.core.disk().free_bytes().await
            {
                self.core.show_free_bytes(bytes);
            }
            looks += 1;
            if self.owed > 0 || self.is_due() {
                self.rewrite().await;
            } else if self.untold {
                self.untold = !self.core.tell_parts_complete();
            }
            self.core.ticker().sleep(LOOK_EVERY).await;
        }
    }

    fn is_due(&self) -> bool {
        let (end, full) =
            self.core.with_machine(|machine| (machine.replica().log().durable().1, machine.is_disk_full()));
        let grown = end.0.saturating_sub(self.begun_at.0) * BLOCK_BYTES as u64;
        // On a full disk, a round of parts lets the log's oldest segments be used again.
        grown > 0 && (full || self.rule.is_due(grown, self.manifest.parts_bytes()))
    }

    async fn rewrite(&mut self) {
        let part = self.manifest.next_part();
        self.begun_at = self.core.with_machine(|machine| machine.replica().log().durable().1);
        let begun = clock::mono();
        let mut image = Image::new(self.core.clone(), self.core.core(), self.core.cores());
        let (disk, dir) = (self.core.disk().clone(), self.core.dir().to_owned());
        match rewrite_part(&disk, &mut image, &mut self.manifest, &dir, part).await {
            Ok(()) => {
                self.owed = self.owed.saturating_sub(1);
                let bytes = self.manifest.part(part).map_or(0, |file| file.bytes);
                self.core.log().expect_part(bytes);
                self.core.log().remove_surplus(&self.core).await;
                let ms = clock::mono().since(begun) / 1_000_000;
                tracing::debug!(core = self.core.core().0, part = part.get(), bytes, ms, "part written");
            }
            Err(error) if error.kind == DiskErrorKind::Full => {
                tracing::warn!(core = self.core.core().0, %error, "no room for a snapshot part");
                self.core.ticker().sleep(Duration::from_secs(1)).await;
            }
            Err(error) => self.core.halt(&error.to_string()),
        }
    }
}
