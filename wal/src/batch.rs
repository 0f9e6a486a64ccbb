//! Batches: one commit group each, spread over cells with one parity cell per 64 KiB.
//!
//! What always holds: a batch that [`read`] returns has the chain value that its writer gave it, so
//! every bit of it and of all batches before it is what was written.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::bytes::{put, u32_at, u64_at, u128_at};
use crate::cell::{
    BLOCK_BYTES, CELL_BYTES, Class, Flags, INDEX_MAX, PAYLOAD_BYTES, Seed, Trailer, classify,
    finish,
};
use crate::image::Image;
use crate::planted::planted;

/// Cells of a full parity group: 127 of data and one of parity, 64 KiB together.
const GROUP_CELLS: usize = 128;
const GROUP_DATA_CELLS: usize = GROUP_CELLS - 1;

const NUMBER_AT: usize = 0;
const FIRST_SEQUENCE_AT: usize = NUMBER_AT + 8;
const COUNT_AT: usize = FIRST_SEQUENCE_AT + 8;
const LENGTH_AT: usize = COUNT_AT + 4;
const TIME_AT: usize = LENGTH_AT + 4;
const DURABLE_AT: usize = TIME_AT + 8;
const PREVIOUS_AT: usize = DURABLE_AT + 8;
const CHAIN_AT: usize = PREVIOUS_AT + 16;
/// Length of a batch's header in bytes.
const HEADER_BYTES: usize = CHAIN_AT + 16;
const _: () = assert!(HEADER_BYTES == 72 && HEADER_BYTES <= PAYLOAD_BYTES);
/// The part of the header that the chain value covers: all that is not the same again in a copy
/// which recovery writes (`durable`) and not the chain values themselves.
const CHAINED_HEADER: Range<usize> = NUMBER_AT..DURABLE_AT;

const RECORD_HEADER_BYTES: usize = 8;

/// Where a log stands: the last batch, the last sequence and the chain value there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Number of the last batch; 0 before the first.
    pub batch: u64,
    /// Last sequence; 0 before the first.
    pub sequence: u64,
    /// Chain value behind that batch; 0 before the first.
    pub chain: u128,
}

/// A batch without its cells: what is encoded, and what comes back.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Number, from 1 without gaps.
    pub number: u64,
    /// Sequence of the first record; of an empty batch the next sequence.
    pub first_sequence: u64,
    /// Number of records.
    pub count: u32,
    /// Store time in milliseconds since the Unix epoch.
    pub time: u64,
    /// The last batch that was known to be synced when this one was written.
    pub durable: u64,
    /// The batch's flags (seal, again, skip, after-sync, stop).
    pub flags: Flags,
    /// The encoded records.
    pub records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The records, in order. Their CRCs are checked on the way.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records {
            rest: self.records,
            left: self.count,
        }
    }

    /// Where the log stands behind this batch if it stood at `before` before.
    #[must_use]
    pub fn position_after(&self, before: Position) -> Position {
        let mut header = [0; HEADER_BYTES];
        self.write_header(&mut header, before.chain, 0);
        Position {
            batch: self.number,
            // An empty batch names the sequence that comes next.
            sequence: self
                .first_sequence
                .saturating_add(u64::from(self.count))
                .saturating_sub(1),
            chain: chain_value(before.chain, &header, self.records),
        }
    }

    fn write_header(&self, header: &mut [u8; HEADER_BYTES], previous: u128, chain: u128) {
        put(header, NUMBER_AT, &self.number.to_le_bytes());
        put(
            header,
            FIRST_SEQUENCE_AT,
            &self.first_sequence.to_le_bytes(),
        );
        put(header, COUNT_AT, &self.count.to_le_bytes());
        // Segments, and so batches, are shorter than 4 GiB: `Log` checks it before it gets here.
        put(
            header,
            LENGTH_AT,
            &(self.records.len() as u32).to_le_bytes(),
        );
        put(header, TIME_AT, &self.time.to_le_bytes());
        put(header, DURABLE_AT, &self.durable.to_le_bytes());
        put(header, PREVIOUS_AT, &previous.to_le_bytes());
        put(header, CHAIN_AT, &chain.to_le_bytes());
    }

    /// Appends the batch's cells to `out`, for a place `position` cells into a segment. Returns
    /// where the log then stands.
    pub(crate) fn encode(
        &self,
        before: Position,
        seed: Seed,
        position: u64,
        out: &mut Vec<u8>,
    ) -> Position {
        let after = self.position_after(before);
        let mut header = [0; HEADER_BYTES];
        self.write_header(&mut header, before.chain, after.chain);

        let layout = Layout::of_records(self.records.len());
        let start = out.len();
        out.resize(start + layout.cells * CELL_BYTES, 0);
        let base = self.flags.of_batch();
        let batch_low = self.number as u32;
        let mut rest = self.records;
        let mut parity = [0u8; PAYLOAD_BYTES];
        for (index, cell) in out[start..].chunks_exact_mut(CELL_BYTES).enumerate() {
            let payload = &mut cell[..PAYLOAD_BYTES];
            if layout.is_parity(index) {
                payload.copy_from_slice(&parity);
                parity.fill(0);
            } else {
                let mut at = 0;
                if index == 0 {
                    payload[..HEADER_BYTES].copy_from_slice(&header);
                    at = HEADER_BYTES;
                }
                let take = rest.len().min(PAYLOAD_BYTES - at);
                let (now, later) = rest.split_at(take);
                payload[at..at + take].copy_from_slice(now);
                rest = later;
                for (sum, byte) in parity.iter_mut().zip(payload.iter()) {
                    *sum ^= byte;
                }
            }
            let flags = base.with(layout.structure(index));
            finish(
                cell,
                seed,
                position + index as u64,
                Trailer {
                    batch_low,
                    index,
                    flags,
                },
            );
        }
        after
    }
}

/// XXH3-128 (<https://github.com/Cyan4973/xxHash>) over the previous value, the header and the
/// records.
fn chain_value(previous: u128, header: &[u8; HEADER_BYTES], records: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(&header[CHAINED_HEADER]);
    hasher.update(records);
    hasher.digest128()
}

/// Appends one record to the records of a batch; `encode` appends its payload in place.
pub fn push_record(records: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = records.len();
    records.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    encode(records);
    let (length, crc) = match records.get(start + RECORD_HEADER_BYTES..) {
        Some(payload) => (payload.len() as u32, crc32fast::hash(payload)),
        None => return,
    };
    put(records, start, &length.to_le_bytes());
    put(records, start + 4, &crc.to_le_bytes());
}

/// Bytes that a record takes in a batch when its payload has `payload_bytes`.
#[must_use]
pub fn record_bytes(payload_bytes: u64) -> u64 {
    payload_bytes.saturating_add(RECORD_HEADER_BYTES as u64)
}

/// Bytes of a segment that a batch takes when its records have `records_bytes`, with header, parity
/// and the padding up to the next block.
#[must_use]
pub fn span_of_records(records_bytes: u64) -> u64 {
    let body = records_bytes.saturating_add(HEADER_BYTES as u64);
    let data = body.div_ceil(PAYLOAD_BYTES as u64);
    let cells = data.saturating_add(data.div_ceil(GROUP_DATA_CELLS as u64));
    let block = BLOCK_BYTES as u64;
    cells
        .saturating_mul(CELL_BYTES as u64)
        .div_ceil(block)
        .saturating_mul(block)
}

/// The records of a batch.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

/// One record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the caller of [`push_record`] encoded.
    pub bytes: &'a [u8],
    /// Their CRC-32, as it was made then; it matches.
    pub crc: u32,
}

impl<'a> Records<'a> {
    /// The `count` records that `bytes` are, as [`push_record`] made them.
    #[must_use]
    pub fn new(bytes: &'a [u8], count: u32) -> Self {
        Self {
            rest: bytes,
            left: count,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    /// A record, or why the records do not parse.
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = std::mem::take(&mut self.rest);
            return (!rest.is_empty()).then_some(Err("bytes behind the last record"));
        }
        self.left -= 1;
        let record = (|| {
            let length = u32_at(self.rest, 0).ok_or("a record is cut short")? as usize;
            let crc = u32_at(self.rest, 4).ok_or("a record is cut short")?;
            let (head, rest) = self
                .rest
                .split_at_checked(RECORD_HEADER_BYTES.saturating_add(length))
                .ok_or("a record is longer than its batch")?;
            let bytes = head.get(RECORD_HEADER_BYTES..).unwrap_or_default();
            if crc32fast::hash(bytes) != crc {
                return Err("a record's CRC does not match");
            }
            self.rest = rest;
            Ok(Record { bytes, crc })
        })();
        if record.is_err() {
            self.rest = &[];
            self.left = 0;
        }
        Some(record)
    }
}

/// How a batch's body is spread over cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    cells: usize,
}

impl Layout {
    fn of_records(records_bytes: usize) -> Self {
        let data = records_bytes
            .saturating_add(HEADER_BYTES)
            .div_ceil(PAYLOAD_BYTES);
        Self {
            cells: data.saturating_add(data.div_ceil(GROUP_DATA_CELLS)),
        }
    }

    fn is_parity(self, index: usize) -> bool {
        index % GROUP_CELLS == GROUP_DATA_CELLS || index + 1 == self.cells
    }

    fn structure(self, index: usize) -> Flags {
        let mut flags = Flags::default();
        if index == 0 {
            flags = flags.with(Flags::FIRST);
        }
        if self.is_parity(index) {
            flags = flags.with(Flags::PARITY);
        }
        if index + 1 == self.cells {
            flags = flags.with(Flags::LAST);
        }
        flags
    }

    fn span(self) -> u64 {
        ((self.cells * CELL_BYTES).div_ceil(BLOCK_BYTES) * BLOCK_BYTES) as u64
    }
}

/// A batch as it was found in a segment.
#[derive(Debug)]
pub(crate) struct Whole {
    header: [u8; HEADER_BYTES],
    flags: Flags,
    records: Vec<u8>,
    /// Bytes up to where the next batch starts.
    pub(crate) span: u64,
    /// Cells that had to be rebuilt or whose parity is lost.
    pub(crate) repaired_cells: u32,
    /// Where the log stands behind it.
    pub(crate) after: Position,
}

impl Whole {
    pub(crate) fn batch(&self) -> Batch<'_> {
        let field = |at| u64_at(&self.header, at).unwrap_or_default();
        Batch {
            number: field(NUMBER_AT),
            first_sequence: field(FIRST_SEQUENCE_AT),
            count: u32_at(&self.header, COUNT_AT).unwrap_or_default(),
            time: field(TIME_AT),
            durable: field(DURABLE_AT),
            flags: self.flags,
            records: &self.records,
        }
    }
}

/// Why there is no batch at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Cells are missing or damaged, more than parity can rebuild.
    Cells,
    /// All cells verify and yet they do not make the batch that belongs here.
    Content(&'static str),
}

/// Reads the batch behind `before`, whose first cell is the cell `start` of the segment.
pub(crate) fn read(
    image: &Image,
    seed: Seed,
    start: usize,
    before: Position,
) -> Result<Whole, Broken> {
    let number = before
        .batch
        .checked_add(1)
        .ok_or(Broken::Content("no batch numbers are left"))?;
    let body = assemble(image, seed, start, number as u32, Some(number))?;
    if body.previous() != Some(before.chain) {
        return Err(Broken::Content("it does not follow the batch before it"));
    }
    let next = before
        .sequence
        .checked_add(1)
        .ok_or(Broken::Content("no sequences are left"))?;
    let whole = body.verify()?;
    let batch = whole.batch();
    let skips = batch.flags.has(Flags::SKIP) && batch.count == 0 && batch.first_sequence >= next;
    if batch.first_sequence != next && !skips {
        return Err(Broken::Content(
            "its sequences do not follow those before it",
        ));
    }
    Ok(whole)
}

/// Reads the batch whose first cell is the cell `start` of the segment, whatever came before it. It has
/// all its CRCs and its own chain value; only that it follows the batch before is not known.
pub(crate) fn read_alone(image: &Image, seed: Seed, start: usize) -> Option<Whole> {
    // Every batch has two cells at least, and with both of them lost parity cannot rebuild it.
    let batch_low = (0..2).find_map(|index| {
        let position = start.checked_add(index)?;
        match classify(image.cell(position)?, seed, position as u64) {
            Class::Valid(trailer) if trailer.index == index => Some(trailer.batch_low),
            _ => None,
        }
    })?;
    let body = assemble(image, seed, start, batch_low, None).ok()?;
    body.verify().ok()
}

/// The cells of a batch put together, parity used where it is needed; what they say is not verified yet.
struct Body {
    header: [u8; HEADER_BYTES],
    flags: Flags,
    records: Vec<u8>,
    span: u64,
    repaired_cells: u32,
}

impl Body {
    fn previous(&self) -> Option<u128> {
        u128_at(&self.header, PREVIOUS_AT)
    }

    fn verify(self) -> Result<Whole, Broken> {
        let field = |at| u64_at(&self.header, at).unwrap_or_default();
        let previous = self.previous().unwrap_or_default();
        let chain = chain_value(previous, &self.header, &self.records);
        if u128_at(&self.header, CHAIN_AT) != Some(chain) && !planted("chain-unchecked") {
            return Err(Broken::Content(
                "its chain value does not match its content",
            ));
        }
        let count = u32_at(&self.header, COUNT_AT).unwrap_or_default();
        let sequence = field(FIRST_SEQUENCE_AT)
            .checked_add(u64::from(count))
            .ok_or(Broken::Content("no sequences are left"))?
            .saturating_sub(1);
        let after = Position {
            batch: field(NUMBER_AT),
            sequence,
            chain,
        };
        Ok(Whole {
            header: self.header,
            flags: self.flags,
            records: self.records,
            span: self.span,
            repaired_cells: self.repaired_cells,
            after,
        })
    }
}

/// Puts the cells of a batch together. `number` is the one that it must have, if that is known.
fn assemble(
    image: &Image,
    seed: Seed,
    start: usize,
    batch_low: u32,
    number: Option<u64>,
) -> Result<Body, Broken> {
    let cells = Cells {
        image,
        seed,
        start,
        batch_low,
    };

    let mut repaired_cells = 0;
    // Group 0 first: it holds the header, which gives the layout of the rest.
    let first = match cells.at(0) {
        Some((payload, flags)) => (payload.to_vec(), flags),
        None => {
            let parity = (1..GROUP_CELLS)
                .find(|&i| cells.at(i).is_some_and(|(_, f)| f.has(Flags::PARITY)))
                .ok_or(Broken::Cells)?;
            (
                cells.rebuild(0..parity + 1, 0).ok_or(Broken::Cells)?,
                cells.at(parity).ok_or(Broken::Cells)?.1,
            )
        }
    };
    let (payload, flags) = (first.0, first.1.of_batch());
    let header: [u8; HEADER_BYTES] = crate::bytes::array(&payload, 0).ok_or(Broken::Cells)?;
    let length = u32_at(&header, LENGTH_AT).unwrap_or_default() as usize;
    let layout = Layout::of_records(length);
    // A length is believed only if the segment has room for it, before anything is allocated.
    if layout.cells > image.cells().saturating_sub(start) || layout.cells > INDEX_MAX {
        return Err(Broken::Content("its length does not fit into the segment"));
    }
    let found = u64_at(&header, NUMBER_AT).unwrap_or_default();
    if found as u32 != batch_low || number.is_some_and(|number| number != found) {
        return Err(Broken::Content("it has another number"));
    }

    let mut records = Vec::with_capacity(length);
    let mut group_start = 0;
    while group_start < layout.cells {
        let group = group_start..layout.cells.min(group_start + GROUP_CELLS);
        let good = |i: usize| {
            cells
                .at(i)
                .filter(|(_, f)| *f == flags.with(layout.structure(i)))
                .map(|(p, _)| p)
        };
        let bad: Vec<usize> = group
            .clone()
            .filter(|&i| good(i).is_none())
            .take(2)
            .collect();
        let rebuilt = match bad.as_slice() {
            [] => None,
            [_] if planted("parity-unused") => return Err(Broken::Cells),
            [one] => {
                repaired_cells += 1;
                Some((
                    *one,
                    cells.rebuild(group.clone(), *one).ok_or(Broken::Cells)?,
                ))
            }
            _ => return Err(Broken::Cells),
        };
        for index in group.clone().take(group.len() - 1) {
            let payload = match &rebuilt {
                Some((bad, payload)) if *bad == index => payload.as_slice(),
                _ => good(index).ok_or(Broken::Cells)?,
            };
            let payload = if index == 0 {
                payload.get(HEADER_BYTES..)
            } else {
                Some(payload)
            };
            let payload = payload.ok_or(Broken::Cells)?;
            let take = payload.len().min(length - records.len());
            records.extend_from_slice(payload.get(..take).ok_or(Broken::Cells)?);
        }
        group_start = group.end;
    }

    Ok(Body {
        header,
        flags,
        records,
        span: layout.span(),
        repaired_cells,
    })
}

/// The `durable` mark in the payload of a batch's first cell.
pub(crate) fn durable_mark(first_payload: &[u8]) -> Option<u64> {
    u64_at(first_payload, DURABLE_AT)
}

/// The cells that one batch would have at one place.
struct Cells<'a> {
    image: &'a Image,
    seed: Seed,
    start: usize,
    batch_low: u32,
}

impl<'a> Cells<'a> {
    /// Payload and flags of cell `index` of the batch, if it verifies as that.
    fn at(&self, index: usize) -> Option<(&'a [u8], Flags)> {
        let position = self.start.checked_add(index)?;
        let cell = self.image.cell(position)?;
        match classify(cell, self.seed, position as u64) {
            Class::Valid(t) if t.batch_low == self.batch_low && t.index == index => {
                Some((cell.get(..PAYLOAD_BYTES)?, t.flags))
            }
            _ => None,
        }
    }

    /// The payload of cell `missing` from all others of its group.
    fn rebuild(&self, group: Range<usize>, missing: usize) -> Option<Vec<u8>> {
        let mut sum = vec![0u8; PAYLOAD_BYTES];
        for index in group.filter(|&i| i != missing) {
            let (payload, _) = self.at(index)?;
            for (byte, other) in sum.iter_mut().zip(payload) {
                *byte ^= other;
            }
        }
        Some(sum)
    }
}
