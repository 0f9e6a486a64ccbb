//! Looking at one segment on its own: what of it verifies, whatever the rest of the log says.
//!
//! What always holds:
//! - Nothing is changed.
//! - A batch that is handed on has all its CRCs and its chain value: it is what was written there.
//! - What a crash may have left behind a torn batch is not handed on: nothing proves that it was
//!   synced.
//!
//! Whether a batch counts is for the caller to say, who knows the other segments.

use std::io;

use crate::batch::{self, Batch, Broken, Position, Whole};
use crate::cell::{BLOCK_BYTES, CELL_BYTES, Flags};
use crate::disk::{Disk, File};
use crate::error::{Damage, Error};
use crate::header::{BadHeader, FIRST_BATCH_AT, Mode, Predecessor, SegmentHeader};
use crate::image::Image;
use crate::log::SEGMENT_FILE_BYTES_MAX;
use crate::scan::{Repair, Segment, Torn, bad_header, cell_at};

/// A batch that verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Offset in bytes.
    pub offset: u64,
    /// What the batch says of itself.
    pub flags: Flags,
    /// Number of its first sequence.
    pub first_sequence: u64,
    /// Number of records.
    pub count: u32,
    /// Where the log stands behind it.
    pub after: Position,
}

/// What one segment holds.
#[derive(Debug, Default)]
pub struct Survey {
    /// The header, if a copy of it verifies.
    pub header: Option<SegmentHeader>,
    /// The batches, in their order.
    pub batches: Vec<Seen>,
    /// Each place where there should be something else, in the order of the offsets. There may be whole
    /// batches behind one.
    pub damage: Vec<Damage>,
    /// What was rebuilt from parity or a second copy.
    pub repairs: Vec<Repair>,
    /// What a crash left at the end.
    pub torn: Option<Torn>,
    /// Newest store time in milliseconds since the Unix epoch.
    pub time: u64,
}

/// The header of the segment at `path`, which may have any name. The flag says that only one of its two
/// copies verified.
///
/// # Errors
/// [`Error::Damaged`] if none does or it cannot be understood, [`Error::Unreadable`] if the disk does not
/// hand it over.
pub fn segment_header(disk: &dyn Disk, path: &str) -> Result<(SegmentHeader, bool), Error> {
    let (file, length) = open(disk, path)?;
    let image = Image::load(file.as_ref(), path, length.min(FIRST_BATCH_AT))?;
    decode(&image, path)
}

/// Looks at all batches of the segment at `path`, and calls `visit` for each one that verifies, with its
/// offset. `salt` is what others say that the segment's is: it serves if the header is lost. `end` is
/// where a later segment or a snapshot says that this one ends: what lies behind is not read.
///
/// # Errors
/// [`Error::Unreadable`] if the file cannot be opened. All else is in the survey.
pub fn survey(
    disk: &dyn Disk,
    path: &str,
    salt: Option<[u8; 16]>,
    end: Option<&Predecessor>,
    visit: &mut dyn FnMut(u64, &Batch<'_>),
) -> Result<Survey, Error> {
    let (file, length) = open(disk, path)?;
    let mut found = Survey::default();
    if length > SEGMENT_FILE_BYTES_MAX {
        let reason =
            format!("it is {length} bytes long, and {SEGMENT_FILE_BYTES_MAX} are the most");
        found.damage.push(whole_file(path, reason));
        return Ok(found);
    }
    let upto = end.map_or(length, |end| end.end.min(length));
    let image = Image::load(file.as_ref(), path, upto.max(length.min(FIRST_BATCH_AT)))?;
    match decode(&image, path) {
        Ok((header, one_copy)) => {
            if header.length != length {
                let reason = format!(
                    "it is {length} bytes long and its header says {}",
                    header.length
                );
                found.damage.push(whole_file(path, reason));
            }
            if one_copy {
                found.repairs.push(Repair {
                    file: path.to_owned(),
                    offset: 0,
                    batch: 0,
                    cells: 1,
                });
            }
            found.time = header.time;
            found.header = Some(header);
        }
        Err(error) => found.damage.push(as_damage(path, error)),
    }
    let header = match (found.header, salt) {
        (Some(header), _) => header,
        (None, Some(salt)) => salt_alone(salt),
        // Nothing verifies without a salt.
        (None, None) => return Ok(found),
    };
    let segment = Segment::new(path.to_owned(), header, image);
    walk(&segment, end, &mut found, visit);
    Ok(found)
}

fn walk(
    segment: &Segment,
    end: Option<&Predecessor>,
    found: &mut Survey,
    visit: &mut dyn FnMut(u64, &Batch<'_>),
) {
    let mut position = found.header.map(|header| header.before());
    let mut offset = FIRST_BATCH_AT;
    // Whether the last thing that was met is damage.
    let mut broke_off = position.is_none();
    while end.is_none_or(|end| offset < end.end) {
        let whole = match next(segment, offset, position) {
            Ok(whole) => whole,
            Err(broken) => {
                let before = position.unwrap_or_default();
                if position.is_some() {
                    match segment.verdict(offset, before, broken) {
                        Ok(tail) if end.is_none() => {
                            found.torn = tail.torn;
                            return;
                        }
                        Ok(_) => found.damage.push(at(
                            segment,
                            offset,
                            before,
                            "cells are damaged or missing, more than parity can rebuild",
                        )),
                        Err(error) => found.damage.push(Damage {
                            batch: Some(before.batch.saturating_add(1)),
                            last_sequence: Some(before.sequence),
                            ..as_damage(&segment.path, error)
                        }),
                    }
                }
                broke_off = true;
                let Some((place, whole)) = resume(segment, offset, before.batch) else {
                    break;
                };
                offset = place;
                whole
            }
        };
        broke_off = false;
        segment.note_repair(offset, &whole, &mut found.repairs);
        let batch = whole.batch();
        visit(offset, &batch);
        found.time = found.time.max(batch.time);
        found.batches.push(Seen {
            offset,
            flags: batch.flags,
            first_sequence: batch.first_sequence,
            count: batch.count,
            after: whole.after,
        });
        position = Some(whole.after);
        offset = offset.saturating_add(whole.span);
    }
    if let Some(end) = end
        && !broke_off
        && position.is_some_and(|position| position != end.position)
    {
        let reason = "it does not end as is said elsewhere";
        let before = position.unwrap_or_default();
        found.damage.push(at(segment, offset, before, reason));
    }
}

fn next(segment: &Segment, offset: u64, before: Option<Position>) -> Result<Whole, Broken> {
    let seed = segment.header.seed();
    match before {
        Some(before) => batch::read(&segment.image, seed, cell_at(offset), before),
        None => batch::read_alone(&segment.image, seed, cell_at(offset)).ok_or(Broken::Cells),
    }
}

/// The next batch at or behind `offset` that verifies on its own, of a number above `number`.
fn resume(segment: &Segment, offset: u64, number: u64) -> Option<(u64, Whole)> {
    let cells = cell_at(offset)..segment.image.cells();
    cells
        .step_by(BLOCK_BYTES / CELL_BYTES)
        .filter(|cell| !segment.image.is_zero(*cell) || !segment.image.is_zero(cell + 1))
        .find_map(|cell| {
            let whole = batch::read_alone(&segment.image, segment.header.seed(), cell)?;
            (whole.after.batch > number).then_some(((cell * CELL_BYTES) as u64, whole))
        })
}

fn open(disk: &dyn Disk, path: &str) -> Result<(Box<dyn File>, u64), Error> {
    let unreadable = |source: io::Error| Error::Unreadable {
        file: path.to_owned(),
        offset: 0,
        source,
    };
    let file = disk.open(path).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    Ok((file, length))
}

fn decode(image: &Image, path: &str) -> Result<(SegmentHeader, bool), Error> {
    SegmentHeader::decode(image.head(BLOCK_BYTES)).map_err(|bad| {
        match image.first_unreadable(0..2) {
            Some((_, source)) if bad == BadHeader::Lost => Error::Unreadable {
                file: path.to_owned(),
                offset: 0,
                source,
            },
            _ => bad_header(path, &bad),
        }
    })
}

/// What stands in for a header that is lost: nothing but the salt is ever read of it.
fn salt_alone(salt: [u8; 16]) -> SegmentHeader {
    SegmentHeader {
        mode: Mode::Always,
        store_id: [0; 16],
        number: 0,
        salt,
        length: 0,
        first_sequence: 0,
        time: 0,
        predecessor: None,
    }
}

fn at(segment: &Segment, offset: u64, before: Position, reason: &str) -> Damage {
    as_damage(&segment.path, segment.damaged(offset, before, reason))
}

fn as_damage(path: &str, error: Error) -> Damage {
    match error {
        Error::Damaged(damage) => damage,
        Error::Unreadable { offset, source, .. } => Damage {
            offset,
            ..whole_file(path, format!("it cannot be read: {source}"))
        },
        other => whole_file(path, other.to_string()),
    }
}

fn whole_file(file: &str, reason: String) -> Damage {
    Damage {
        file: file.to_owned(),
        offset: 0,
        batch: None,
        last_sequence: None,
        reason,
    }
}
