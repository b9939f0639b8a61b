//! When the next part is due, and the order of steps in which a new part comes into force. Knows no format.

use super::disk::{Disk, DiskErrorKind, DiskResult};
use super::manifest::{self, Manifest};
use super::part::{PARTS, PartFile, PartIndex, PartSource, write_part};
use super::small_file::{join, undecided};
use crate::types::mutant::{Mutant, planted};

/// When to write the next part (`ENGINE.md` §2): so that a whole round of parts costs about as much writing as the log
/// itself, however large the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DueRule {
    /// A round of parts begins after no less log than this, bytes.
    pub round_bytes_min: u64,
}

impl Default for DueRule {
    fn default() -> DueRule {
        DueRule { round_bytes_min: 64 << 20 }
    }
}

impl DueRule {
    /// Is the next part due, after the log has grown by `log_bytes` since the last was begun, with all parts together
    /// having `parts_bytes`?
    pub fn is_due(&self, log_bytes: u64, parts_bytes: u64) -> bool {
        log_bytes >= self.round_bytes_min.max(parts_bytes) / PARTS as u64
    }
}

/// Writes a part anew and brings it into force.
///
/// Killed at any step, the directory holds either the part before or the new one, with the log that it needs. An error
/// of kind `Full` changed nothing: it may be tried again later. After any other the process must not go on.
pub async fn rewrite_part<D: Disk, S: PartSource>(
    disk: &D,
    source: &mut S,
    manifest: &mut Manifest,
    dir: &str,
    part: PartIndex,
) -> DiskResult<()> {
    let generation = manifest.part(part).map_or(1, |before| before.generation + 1);
    let owner = *manifest.owner();
    let file = write_part(disk, source, &owner, dir, part, generation).await?;
    bring_into_force(disk, source, manifest, dir, part, file).await
}

/// Each step relies on the durability of the one before it.
async fn bring_into_force<D: Disk, S: PartSource>(
    disk: &D,
    source: &mut S,
    manifest: &mut Manifest,
    dir: &str,
    part: PartIndex,
    file: PartFile,
) -> DiskResult<()> {
    let mut new = manifest.clone();
    new.name_part(part, file);
    if planted(Mutant::SegmentRecycledEarly) {
        source.recycle_below(new.low());
    }
    if let Err(error) = manifest::write(disk, dir, &new).await {
        if error.kind == DiskErrorKind::Full {
            disk.remove(&join(dir, &file.name(part))).await.map_err(undecided)?;
        }
        return Err(error);
    }
    let before = core::mem::replace(manifest, new);
    source.recycle_below(manifest.low());
    match before.part(part) {
        Some(before) => disk.remove(&join(dir, &before.name(part))).await.map_err(undecided),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_due_each_sixteenth_of_the_larger_of_the_least_round_and_the_parts() {
        let rule = DueRule::default();
        assert!(!rule.is_due((4 << 20) - 1, 0));
        assert!(rule.is_due(4 << 20, 64 << 20));
        assert!(!rule.is_due(4 << 20, 128 << 20));
        assert!(rule.is_due(8 << 20, 128 << 20));
    }
}
