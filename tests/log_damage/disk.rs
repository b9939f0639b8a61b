//! A disk in memory with a volatile write cache: what was not flushed may be there after a power cut, or not, or in
//! part. Knows blocks, not logs.

use ringcore::storage::block::BLOCK_BYTES;
use ringcore::types::prng::Prng;
use std::collections::BTreeMap;

const SECTOR_BYTES: usize = 512;

/// Files of equal length, made of blocks.
pub(crate) struct Disk {
    file_blocks: usize,
    durable: BTreeMap<u32, Vec<u8>>,
    /// Writes of a block since its last flush, oldest first.
    cache: BTreeMap<(u32, usize), Vec<Vec<u8>>>,
}

impl Disk {
    /// An empty directory.
    pub(crate) fn new(file_blocks: usize) -> Disk {
        Disk { file_blocks, durable: BTreeMap::new(), cache: BTreeMap::new() }
    }

    /// A file of zeros, durable with its name.
    pub(crate) fn create(&mut self, file: u32) {
        let taken = self.durable.insert(file, vec![0; self.file_blocks * BLOCK_BYTES]);
        assert!(taken.is_none(), "a new file has a new name");
    }

    pub(crate) fn remove(&mut self, file: u32) {
        self.durable.remove(&file);
        self.cache.retain(|&(of, _), _| of != file);
    }

    pub(crate) fn files(&self) -> Vec<u32> {
        self.durable.keys().copied().collect()
    }

    /// Writes into the cache; `keep` tells for each block whether it gets there.
    pub(crate) fn write(&mut self, file: u32, offset: u64, bytes: &[u8], mut keep: impl FnMut() -> bool) {
        let from = offset as usize / BLOCK_BYTES;
        for (i, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            if keep() {
                self.cache.entry((file, from + i)).or_default().push(block.to_vec());
            }
        }
    }

    /// Writes past the cache: durable on return (O_DSYNC with forced unit access).
    pub(crate) fn write_through(&mut self, file: u32, offset: u64, bytes: &[u8]) {
        let from = offset as usize / BLOCK_BYTES;
        for (i, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            self.cache.remove(&(file, from + i));
            self.durable_block(file, from + i).copy_from_slice(block);
        }
    }

    /// Makes everything durable that was written.
    pub(crate) fn flush(&mut self) {
        for ((file, at), mut writes) in std::mem::take(&mut self.cache) {
            let newest = writes.pop().expect("a cached block was written");
            self.durable_block(file, at).copy_from_slice(&newest);
        }
    }

    /// Loses the cache: each block keeps its durable bytes or any of the writes since, or, if `atomic` is not set, some
    /// sectors of each, or noise.
    pub(crate) fn power_cut(&mut self, prng: &mut Prng, atomic: bool) {
        for ((file, at), writes) in std::mem::take(&mut self.cache) {
            let mix = !atomic && prng.chance(400);
            let noise = mix && prng.chance(500);
            let block = self.durable_block(file, at);
            let kept = prng.below(writes.len() as u64 + 1) as usize;
            for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
                let kept = if mix { prng.below(writes.len() as u64 + 1) as usize } else { kept };
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                if let Some(write) = writes.get(kept) {
                    block[range.clone()].copy_from_slice(&write[range]);
                }
            }
            if noise {
                scribble(prng, &mut block[..SECTOR_BYTES]);
            }
        }
    }

    /// Damages a block on the medium, if it is not in the cache. It never looks unwritten afterwards. Returns whether it
    /// was damaged.
    pub(crate) fn rot(&mut self, prng: &mut Prng, file: u32, at: usize) -> bool {
        if self.cache.contains_key(&(file, at)) {
            return false;
        }
        let block = self.durable_block(file, at);
        match prng.below(3) {
            0 => {
                let bit = prng.below(BLOCK_BYTES as u64 * 8) as usize;
                block[bit / 8] ^= 1 << (bit % 8);
            }
            1 => scribble(prng, &mut block[..64]),
            _ => scribble(prng, block),
        }
        true
    }

    /// What a reader sees.
    pub(crate) fn read(&self, file: u32) -> Vec<u8> {
        let mut bytes = self.durable[&file].clone();
        for (&(_, at), writes) in self.cache.range((file, 0)..=(file, usize::MAX)) {
            let newest = writes.last().expect("a cached block was written");
            bytes[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES].copy_from_slice(newest);
        }
        bytes
    }

    fn durable_block(&mut self, file: u32, at: usize) -> &mut [u8] {
        let file = self.durable.get_mut(&file).expect("only files that are there are written");
        &mut file[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES]
    }
}

fn scribble(prng: &mut Prng, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&prng.next_u64().to_le_bytes()[..chunk.len()]);
    }
}
