//! Sizes: of chunks, and of the cells that a chunk is cut into. Knows nothing of what the cells hold.
//!
//! A chunk holds cells of one class. Classes are 8 bytes apart up to 512 bytes and a sixteenth apart above, and each is
//! then widened to what the chunk has room for, so that only a few bytes at its end are left over.

/// Bytes of a chunk: what is given to a class, moved and returned as one.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that the lower part of a handle counts.
pub(super) const UNIT_BYTES: usize = 8;
/// Records above this size are allocations of their own.
pub(super) const CELL_BYTES_MAX: usize = 16 << 10;
/// Number of classes for records.
pub(super) const CLASSES: usize = SIZES.1;

/// The smallest record: its header and a key of one byte, rounded up.
const CELL_BYTES_MIN: usize = 24;
/// From here on classes are a sixteenth apart.
const FINE_BYTES_MAX: usize = 512;

const SIZES: ([u16; 256], usize) = sizes();
const CLASS_OF_UNITS: [u8; CELL_BYTES_MAX / UNIT_BYTES + 1] = class_of_units();

/// Bytes of a cell of that class.
pub(super) const fn cell_bytes(class: usize) -> usize {
    assert!(class < CLASSES, "no such class");
    SIZES.0[class] as usize
}

/// The class for a record of `bytes`; None if it is an allocation of its own.
pub(super) fn class_of(bytes: usize) -> Option<usize> {
    CLASS_OF_UNITS.get(bytes.div_ceil(UNIT_BYTES)).map(|&class| usize::from(class))
}

const fn sizes() -> ([u16; 256], usize) {
    let mut sizes = [0u16; 256];
    let mut count = 0;
    let mut nominal = CELL_BYTES_MIN;
    while nominal <= CELL_BYTES_MAX {
        let widened = CHUNK_BYTES / (CHUNK_BYTES / nominal) / UNIT_BYTES * UNIT_BYTES;
        sizes[count] = widened as u16;
        count += 1;
        let step = if widened < FINE_BYTES_MAX { UNIT_BYTES } else { (1 << widened.ilog2()) / 16 };
        nominal = (widened / step + 1) * step;
    }
    (sizes, count)
}

const fn class_of_units() -> [u8; CELL_BYTES_MAX / UNIT_BYTES + 1] {
    let mut classes = [0u8; CELL_BYTES_MAX / UNIT_BYTES + 1];
    let mut units = 0;
    let mut class = 0;
    while units < classes.len() {
        if cell_bytes(class) < units * UNIT_BYTES {
            class += 1;
        }
        classes[units] = class as u8;
        units += 1;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_not_the_one_below() {
        for bytes in 1..=CELL_BYTES_MAX {
            let class = class_of(bytes).unwrap();
            assert!(cell_bytes(class) >= bytes);
            assert!(class == 0 || cell_bytes(class - 1) < bytes);
        }
        assert_eq!(class_of(CELL_BYTES_MAX + 1), None);
    }

    #[test]
    fn cells_waste_little_of_their_chunk() {
        for class in 0..CLASSES {
            let bytes = cell_bytes(class);
            assert_eq!(bytes % UNIT_BYTES, 0);
            let rest = CHUNK_BYTES % bytes;
            assert!(rest < bytes.min(UNIT_BYTES * (CHUNK_BYTES / bytes)), "{bytes} leaves {rest}");
            let padding = class.checked_sub(1).map_or(0, |below| bytes - cell_bytes(below) - 1);
            // A sixteenth, and what the class was widened by.
            let padding_max = if bytes <= FINE_BYTES_MAX {
                UNIT_BYTES
            } else {
                bytes / 16 + UNIT_BYTES + bytes / (CHUNK_BYTES / bytes)
            };
            assert!(padding <= padding_max, "{bytes} pads {padding}");
        }
        assert_eq!(cell_bytes(class_of(18 + 16 + 100).unwrap()), 136);
    }
}
