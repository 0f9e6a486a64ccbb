//! Cells: the 512-byte units that the log is made of. The layout is in the package's docs.
//!
//! What always holds: a cell that verifies was written at this place of this segment; a cell that
//! was written whole never looks unwritten again, whatever one flipped bit does to it.

use crc32fast::Hasher;

use crate::bytes::{put, u32_at};
use crate::planted::planted;

/// Length of a cell in bytes: the sector size below which disks do not tear.
pub const CELL_BYTES: usize = 512;
/// Length of a cell's payload in bytes.
pub const PAYLOAD_BYTES: usize = CELL_BYTES - TRAILER_BYTES;
/// Batches start on multiples of this many bytes: the page and block size of common file systems.
pub const BLOCK_BYTES: usize = 4096;

const TRAILER_BYTES: usize = 16;
const BATCH_AT: usize = PAYLOAD_BYTES;
const INDEX_AT: usize = BATCH_AT + 4;
const FLAGS_AT: usize = INDEX_AT + 3;
const CRC_AT: usize = FLAGS_AT + 1;
const MAGIC_AT: usize = CRC_AT + 4;
const _: () = assert!(MAGIC_AT + 4 == CELL_BYTES && BLOCK_BYTES.is_multiple_of(CELL_BYTES));

/// Ends every written cell. A torn write leaves the end of a sector as it was, that is zero.
const MAGIC: u32 = 0xEFB7_DDBB;
/// With more bits of the magic than this the cell was written, whatever its CRC says.
const UNWRITTEN_MAGIC_BITS_MAX: u32 = 4;
// One flip must never turn a written cell into an unwritten one, nor the other way round.
const _: () = assert!(MAGIC.count_ones() >= 16 + UNWRITTEN_MAGIC_BITS_MAX);

/// The largest index that fits into a trailer.
pub(crate) const INDEX_MAX: usize = (1 << 24) - 1;

/// What a cell says about itself and its batch; the bits are in the package's docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// First cell of its batch.
    pub const FIRST: Self = Self(1);
    /// Last cell of its batch.
    pub const LAST: Self = Self(2);
    /// Holds the XOR of the payloads of its group.
    pub const PARITY: Self = Self(4);
    /// An empty batch that proves what lies before it.
    pub const SEAL: Self = Self(8);
    /// A batch that recovery wrote again because the disk might not hold the first copy.
    pub const AGAIN: Self = Self(16);
    /// An empty batch behind which sequences go on further ahead.
    pub const SKIP: Self = Self(32);
    /// All batches before this one were synced before this one was written.
    pub const AFTER_SYNC: Self = Self(64);
    /// The process ended in order with this seal.
    pub const STOP: Self = Self(128);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits that every cell of a batch repeats.
    #[must_use]
    pub fn of_batch(self) -> Self {
        Self(self.0 & !(Self::FIRST.0 | Self::LAST.0 | Self::PARITY.0))
    }
}

/// The start value of every CRC in one segment (or one kind of file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(salt: &[u8]) -> Self {
        Self(crc32fast::hash(salt))
    }
}

/// A cell's trailer, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) batch_low: u32,
    pub(crate) index: usize,
    pub(crate) flags: Flags,
}

/// What one cell, looked at alone, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Never written, or a write that did not reach its end.
    Unwritten,
    /// Written here, whole.
    Valid(Trailer),
    /// Written once, and not what it was.
    Damaged,
}

/// Classifies the cell at `position` (counted in cells from the start of the file). `cell` must be
/// [`CELL_BYTES`] long; anything else is damaged.
pub(crate) fn classify(cell: &[u8], seed: Seed, position: u64) -> Class {
    let (Some(magic), Some(crc)) = (u32_at(cell, MAGIC_AT), u32_at(cell, CRC_AT)) else {
        return Class::Damaged;
    };
    if magic == MAGIC && crc == checksum(cell, seed, position) {
        let index_and_flags = u32_at(cell, INDEX_AT).unwrap_or_default();
        let [i0, i1, i2, flags] = index_and_flags.to_le_bytes();
        return Class::Valid(Trailer {
            batch_low: u32_at(cell, BATCH_AT).unwrap_or_default(),
            index: u32::from_le_bytes([i0, i1, i2, 0]) as usize,
            flags: Flags(flags),
        });
    }
    // A tear leaves the end as it was: zero. So a cell whose magic is (nearly) absent was not
    // written to its end; one with its magic and a wrong CRC was, and has changed since.
    // The tear may also lie within the magic: its first bytes, then zeros.
    let torn_magic = (1..4).any(|bytes| magic == MAGIC & ((1 << (8 * bytes)) - 1));
    let one_byte = planted("unwritten-by-one-byte") && cell.last() != MAGIC.to_le_bytes().last();
    if torn_magic || magic.count_ones() <= UNWRITTEN_MAGIC_BITS_MAX || one_byte {
        return Class::Unwritten;
    }
    Class::Damaged
}

/// Fills in the trailer of a cell whose payload is in place.
pub(crate) fn finish(cell: &mut [u8], seed: Seed, position: u64, trailer: Trailer) {
    put(cell, BATCH_AT, &trailer.batch_low.to_le_bytes());
    let [i0, i1, i2, _] = (trailer.index as u32).to_le_bytes();
    put(cell, INDEX_AT, &[i0, i1, i2, trailer.flags.0]);
    put(cell, MAGIC_AT, &MAGIC.to_le_bytes());
    let crc = checksum(cell, seed, position);
    put(cell, CRC_AT, &crc.to_le_bytes());
}

fn checksum(cell: &[u8], seed: Seed, position: u64) -> u32 {
    let salted = !planted("crc-without-salt");
    let mut hasher = Hasher::new_with_initial(if salted { seed.0 } else { 0 });
    if !planted("crc-without-position") {
        hasher.update(&position.to_le_bytes());
    }
    hasher.update(cell.get(..CRC_AT).unwrap_or_default());
    hasher.finalize()
}

/// Recomputes the CRC of every cell of a segment that ends in the magic, so that a fuzzer gets past
/// the checksums: its mutations then reach the code behind them. Not for use on data.
pub fn rewrite_checksums(segment: &mut [u8], header_cells: usize, header_seed: &[u8], salt: &[u8]) {
    for (position, cell) in segment.chunks_exact_mut(CELL_BYTES).enumerate() {
        if u32_at(cell, MAGIC_AT) == Some(MAGIC) {
            let seed = Seed::of(if position < header_cells {
                header_seed
            } else {
                salt
            });
            let crc = checksum(cell, seed, position as u64);
            put(cell, CRC_AT, &crc.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut cell: Vec<u8> = (0..CELL_BYTES).map(|i| (i * 7 % 251) as u8).collect();
        let trailer = Trailer {
            batch_low: 9,
            index: 3,
            flags: Flags::FIRST,
        };
        finish(&mut cell, Seed::of(b"salt"), 77, trailer);
        cell
    }

    #[test]
    fn a_written_cell_is_valid_only_where_it_was_written() {
        let cell = written();
        let trailer = Trailer {
            batch_low: 9,
            index: 3,
            flags: Flags::FIRST,
        };
        assert_eq!(
            classify(&cell, Seed::of(b"salt"), 77),
            Class::Valid(trailer)
        );
        assert_eq!(classify(&cell, Seed::of(b"salt"), 78), Class::Damaged);
        assert_eq!(classify(&cell, Seed::of(b"tlas"), 77), Class::Damaged);
    }

    #[test]
    fn no_single_flip_makes_a_written_cell_valid_or_unwritten() {
        let cell = written();
        for bit in 0..CELL_BYTES * 8 {
            let mut flipped = cell.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                classify(&flipped, Seed::of(b"salt"), 77),
                Class::Damaged,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn zeros_a_torn_write_and_a_flip_in_zeros_are_unwritten() {
        let seed = Seed::of(b"salt");
        let zeros = vec![0; CELL_BYTES];
        assert_eq!(classify(&zeros, seed, 77), Class::Unwritten);
        for bit in 0..CELL_BYTES * 8 {
            let mut flipped = zeros.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(&flipped, seed, 77), Class::Unwritten, "bit {bit}");
        }
        for written_bytes in 0..CELL_BYTES {
            let mut torn = written();
            torn[written_bytes..].fill(0);
            assert_eq!(
                classify(&torn, seed, 77),
                Class::Unwritten,
                "{written_bytes} bytes"
            );
        }
    }
}
