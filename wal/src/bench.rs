//! What the micro benches of `benches/` need and nobody else calls: one batch as bytes, without a disk.
//! Not part of what the crate offers.

use crate::batch::{Batch, Position};
use crate::header::SegmentHeader;

/// Appends the cells of `batch`, as they lie at the beginning of the segment, to `out`.
pub fn encode(
    header: &SegmentHeader,
    batch: &Batch<'_>,
    before: Position,
    out: &mut Vec<u8>,
) -> Position {
    let behind_the_header = (crate::BLOCK_BYTES / crate::CELL_BYTES) as u64;
    batch.encode(before, header.seed(), behind_the_header, out)
}
