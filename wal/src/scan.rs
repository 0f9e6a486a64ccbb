//! Reading one segment: batch after batch, then a verdict on how it ends.
//!
//! What always holds: nothing that a later batch proves is ever dropped; a tail is called torn only
//! if a crash can have left it so. The verdict table stands in the code below, in its order.

use std::ops::Range;

use crate::batch::{self, Batch, Broken, Position, Whole};
use crate::cell::{BLOCK_BYTES, CELL_BYTES, Class, Flags, classify};
use crate::error::{Damage, Error};
use crate::header::{BadHeader, FIRST_BATCH_AT, SegmentHeader, segment_path};
use crate::image::Image;
use crate::planted::planted;

/// A batch that was rebuilt from parity; the file stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// File below the data dir.
    pub file: String,
    /// Offset of the batch in bytes.
    pub offset: u64,
    /// Its number; 0 for a header or `CURRENT`, of which one copy is lost.
    pub batch: u64,
    /// Cells that were rebuilt.
    pub cells: u32,
}

/// What a crash left of a batch that nothing proves to be synced. In [`Mode::Always`](crate::Mode) nobody was
/// told of it; in the other modes of it and of those behind it they may have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// File below the data dir.
    pub file: String,
    /// Offset in bytes where it starts.
    pub offset: u64,
    /// Its number.
    pub batch: u64,
    /// Bytes of it and of later ones that had reached the disk.
    pub bytes: u64,
}

/// How an open-ended segment ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Offset behind the last whole batch.
    pub(crate) offset: u64,
    /// Set if something was dropped.
    pub(crate) torn: Option<Torn>,
    /// A batch up to which what was dropped proves that all is durable.
    pub(crate) proven: u64,
}

/// What a caller does with each batch; an error is a reason to refuse.
pub(crate) type Visit<'a> = dyn FnMut(u64, &Whole) -> Result<(), Error> + 'a;

/// One segment, loaded.
pub(crate) struct Segment {
    pub(crate) path: String,
    pub(crate) header: SegmentHeader,
    pub(crate) image: Image,
}

impl Segment {
    pub(crate) fn new(path: String, header: SegmentHeader, image: Image) -> Self {
        Self {
            path,
            header,
            image,
        }
    }

    /// Reads the batches up to `end`, the offset that the successor's header names; all of them are
    /// proven, so every one must be there. What lies behind is not looked at.
    pub(crate) fn read_to(
        &self,
        end: u64,
        expected: Position,
        visit: &mut Visit<'_>,
        repairs: &mut Vec<Repair>,
    ) -> Result<Position, Error> {
        let mut position = self.header.before();
        let mut offset = FIRST_BATCH_AT;
        while offset < end {
            let read = batch::read(&self.image, self.header.seed(), cell_at(offset), position);
            if read.is_err() && planted("gap-is-skipped") {
                return Ok(expected);
            }
            let whole = read.map_err(|broken| {
                let reason = match broken {
                    Broken::Cells => "cells are damaged or missing, more than parity can rebuild",
                    Broken::Content(reason) => reason,
                };
                let lost = format!("{reason}; the segment behind it proves that it was there");
                self.refuse(offset, end, position, &lost)
            })?;
            self.note_repair(offset, &whole, repairs);
            visit(offset, &whole)?;
            position = whole.after;
            offset = offset.saturating_add(whole.span);
        }
        if offset != end || position != expected {
            let reason = "it does not end as the segment behind it says";
            return Err(self.damaged(offset, position, reason));
        }
        Ok(position)
    }

    /// Reads the newest segment: all its batches, then the verdict.
    pub(crate) fn read_to_tail(
        &self,
        visit: &mut Visit<'_>,
        repairs: &mut Vec<Repair>,
    ) -> Result<End, Error> {
        let mut position = self.header.before();
        let mut offset = FIRST_BATCH_AT;
        loop {
            match batch::read(&self.image, self.header.seed(), cell_at(offset), position) {
                Ok(whole) => {
                    self.note_repair(offset, &whole, repairs);
                    visit(offset, &whole)?;
                    position = whole.after;
                    offset = offset.saturating_add(whole.span);
                }
                Err(broken) => return self.verdict(offset, position, broken),
            }
        }
    }

    /// What it means that no batch verifies at `offset`. (A rebuilt batch has verified.)
    pub(crate) fn verdict(
        &self,
        offset: u64,
        position: Position,
        broken: Broken,
    ) -> Result<End, Error> {
        let number = position.batch.saturating_add(1);
        let cells = cell_at(offset)..self.image.cells();
        if let Some(error) = self.unreadable(cells.clone()) {
            return Err(error);
        }

        // All its cells are there and it is not what belongs here: no crash leaves that.
        if let Broken::Content(reason) = broken {
            return Err(self.damaged(offset, position, reason));
        }

        let mut written = 0;
        let mut proven = 0;
        for cell in cells {
            if self.image.is_zero(cell) {
                continue;
            }
            let bytes = self.image.cell(cell).unwrap_or_default();
            let at = (cell * CELL_BYTES) as u64;
            let trailer = match classify(bytes, self.header.seed(), cell as u64) {
                Class::Unwritten => continue,
                Class::Damaged if planted("damage-is-an-end") => continue,
                Class::Damaged => {
                    let reason = "a written cell has changed, and parity cannot rebuild it";
                    return Err(self.damaged(at, position, reason));
                }
                Class::Valid(trailer) => trailer,
            };
            written += 1;
            // How many batches behind the missing one; numbers are compared by their low halves.
            let later = trailer.batch_low.wrapping_sub(number as u32);
            let start = cell
                .checked_sub(trailer.index)
                .map(|start| (start * CELL_BYTES) as u64);
            let in_place = match start {
                Some(start) if later == 0 => start == offset,
                Some(start) => {
                    later < u32::MAX / 2
                        && start > offset
                        && start.is_multiple_of(BLOCK_BYTES as u64)
                }
                None => false,
            };
            if !in_place {
                let reason = "a batch lies where it does not belong";
                return Err(self.damaged(at, position, reason));
            }
            let first = trailer.flags.has(Flags::FIRST);
            let durable = (first && !planted("durable-mark-ignored"))
                .then(|| batch::durable_mark(bytes))
                .flatten()
                .unwrap_or_default();
            let proves = trailer.flags.has(Flags::AFTER_SYNC) || durable >= number;
            if later > 0 && proves && !planted("proof-is-ignored") {
                let reason = "a later batch proves that the batch here was synced; it is missing \
                              or damaged beyond what parity can rebuild";
                return Err(self.damaged(offset, position, reason));
            }
            if trailer.flags.has(Flags::AFTER_SYNC) {
                proven = proven.max(position.batch);
            }
            proven = proven.max(durable);
        }

        if written == 0 {
            return Ok(End {
                offset,
                torn: None,
                proven,
            });
        }
        let torn = Torn {
            file: self.path.clone(),
            offset,
            batch: number,
            bytes: written * CELL_BYTES as u64,
        };
        Ok(End {
            offset,
            torn: Some(torn),
            proven,
        })
    }

    /// Whether the segment, which `CURRENT` does not know yet, may be removed: it is empty or holds
    /// only copies of batches that the segments before it have as well.
    pub(crate) fn is_superfluous(&self) -> bool {
        planted("newer-segment-ignored")
            || (cell_at(FIRST_BATCH_AT)..self.image.cells()).all(|cell| {
                self.image.is_zero(cell)
                    || match self
                        .image
                        .cell(cell)
                        .map(|b| classify(b, self.header.seed(), cell as u64))
                    {
                        Some(Class::Unwritten) => true,
                        Some(Class::Valid(trailer)) => trailer.flags.has(Flags::AGAIN),
                        Some(Class::Damaged) | None => false,
                    }
            })
    }

    /// The first place that the disk would not hand over.
    pub(crate) fn first_unreadable(&self) -> Option<Error> {
        self.unreadable(0..self.image.cells())
    }

    pub(crate) fn note_repair(&self, offset: u64, whole: &Whole, repairs: &mut Vec<Repair>) {
        if whole.repaired_cells > 0 {
            repairs.push(Repair {
                file: self.path.clone(),
                offset,
                batch: whole.after.batch,
                cells: whole.repaired_cells,
            });
        }
    }

    fn unreadable(&self, cells: Range<usize>) -> Option<Error> {
        let (cell, source) = self.image.first_unreadable(cells)?;
        Some(Error::Unreadable {
            file: self.path.clone(),
            offset: (cell * CELL_BYTES) as u64,
            source,
        })
    }

    fn refuse(&self, offset: u64, end: u64, position: Position, reason: &str) -> Error {
        self.unreadable(cell_at(offset)..cell_at(end))
            .unwrap_or_else(|| self.damaged(offset, position, reason))
    }

    /// Refuses because of what was found at `offset`, with all up to `position` read.
    pub(crate) fn damaged(&self, offset: u64, position: Position, reason: &str) -> Error {
        Error::Damaged(Damage {
            file: self.path.clone(),
            offset,
            batch: Some(position.batch.saturating_add(1)),
            last_sequence: Some(position.sequence),
            reason: reason.to_owned(),
        })
    }
}

pub(crate) fn cell_at(offset: u64) -> usize {
    usize::try_from(offset / CELL_BYTES as u64).unwrap_or(usize::MAX)
}

/// Reads the bytes of one segment as if it were the newest, for fuzzing and inspection: each batch
/// with its offset goes to `visit`. Returns the header, the offset of the end and what was torn.
///
/// # Errors
/// [`Error::Damaged`] as a start would refuse it.
pub fn scan_segment(
    bytes: &[u8],
    mut visit: impl FnMut(u64, &Batch<'_>),
) -> Result<(SegmentHeader, u64, Option<Torn>), Error> {
    let image = Image::of_bytes(bytes);
    let (header, _) = SegmentHeader::decode(image.head(BLOCK_BYTES))
        .map_err(|bad| bad_header(&segment_path(0), &bad))?;
    let segment = Segment::new(segment_path(header.number), header, image);
    let mut repairs = Vec::new();
    let end = segment.read_to_tail(
        &mut |offset, whole| {
            visit(offset, &whole.batch());
            Ok(())
        },
        &mut repairs,
    )?;
    Ok((segment.header, end.offset, end.torn))
}

pub(crate) fn bad_header(path: &str, bad: &BadHeader) -> Error {
    Error::Damaged(Damage {
        file: path.to_owned(),
        offset: 0,
        batch: None,
        last_sequence: None,
        reason: match bad {
            BadHeader::Lost => "neither copy of its header verifies".to_owned(),
            BadHeader::Foreign(reason) => reason.clone(),
        },
    })
}
