//! A write-ahead log that tells a torn tail from damage, and repairs small damage by itself.
//!
//! The package knows bytes only: what a mutation means is the caller's business.
//!
//! What always holds:
//! - Every byte of a written cell is covered by a CRC that is seeded with where it lies.
//! - A segment is written by one process, from front to back; a synced sector is never rewritten.
//! - Sequence numbers have no gap but the one that a batch flagged `skip` names.
//! - Reading never changes a file; [`Log`] alone does.
//!
//! # Files
//!
//! | name | what | written |
//! | --- | --- | --- |
//! | `CURRENT` | names the newest segment ([`Current`]) | four moves: write `.tmp`, sync, rename, sync directory |
//! | `wal/<number, 20 digits>.wal` | a segment: header block, then batches | once, front to back |
//! | `wal/next.tmp`, `CURRENT.tmp` | the zero-filled spare and its `CURRENT` | never read |
//! | `lock` | the process that has the directory | at each start |
//!
//! All integers are little endian.
//!
//! # Cell: 512 bytes
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 496 | payload |
//! | 496 | 4 | batch number, low 32 bits |
//! | 500 | 3 | index of the cell in its batch, parity cells counted |
//! | 503 | 1 | flags |
//! | 504 | 4 | CRC-32 (IEEE, as in zlib) of: segment salt, cell position in the segment (u64), bytes 0 to 503 |
//! | 508 | 4 | magic `BB DD B7 EF` |
//!
//! Flags: 1 first, 2 last, 4 parity, 8 seal, 16 again, 32 skip, 64 after-sync, 128 stop. *after-sync*:
//! every batch before this one was synced before this one was written. *stop*: nothing was
//! acknowledged after this seal; the process ended in order.
//!
//! # Header block: the first 4096 bytes of a segment
//!
//! Cell 0 and, with the flag parity, the same payload again in cell 1; the CRC's seed is the text
//! `ekokv segment header` in place of a salt, for the salt is not known before.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `ekokvwal` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | durability of the run: 0 always, 1 interval, 2 os |
//! | 16 | 16 | store id |
//! | 32 | 8 | segment number, from 1 |
//! | 40 | 16 | salt: random, also the segment's identity |
//! | 56 | 8 | length of the file in bytes |
//! | 64 | 8 | first sequence |
//! | 72 | 8 | store time, milliseconds since the Unix epoch |
//! | 80 | 8 | predecessor: segment number, 0 if there is none |
//! | 88 | 16 | predecessor: salt |
//! | 104 | 8 | predecessor: offset behind its last proven batch |
//! | 112 | 8 | predecessor: number of that batch |
//! | 120 | 8 | predecessor: last sequence there |
//! | 128 | 16 | predecessor: chain value there |
//!
//! # Batch
//!
//! Starts on a 4096-byte boundary. Its body is a header and records, cut into payloads of 496
//! bytes (the last one padded with zeros); after each 127 data cells, and at the end, a parity cell
//! holds the XOR of the group's payloads.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | batch number, from 1, without gaps |
//! | 8 | 8 | first sequence (of an empty batch: the next one) |
//! | 16 | 4 | number of records |
//! | 20 | 4 | length of the records in bytes |
//! | 24 | 8 | store time, milliseconds since the Unix epoch |
//! | 32 | 8 | durable: the last batch that was known to be synced |
//! | 40 | 16 | previous chain value |
//! | 56 | 16 | chain value: XXH3-128 of the previous one, bytes 0 to 31 and the records |
//! | 72 | – | records: length u32, CRC-32 of the bytes u32, bytes |
//!
//! # `CURRENT`: 8192 bytes
//!
//! The same cell at 0 and at 4096 (cell positions 0 and 8), seed `ekokv CURRENT`:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `ekokvcur` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | state: 1 creating, 2 live |
//! | 16 | 16 | store id |
//! | 32 | 8 | number of the newest segment, 0 while creating |
//! | 40 | 16 | its salt |

mod batch;
#[doc(hidden)]
pub mod bench;
mod bytes;
mod cell;
mod current;
mod disk;
mod error;
mod header;
mod image;
mod log;
mod planted;
mod recover;
mod scan;
mod spare;
mod survey;

pub use batch::{Batch, Position, Record, Records, push_record, record_bytes, span_of_records};
pub use cell::{BLOCK_BYTES, CELL_BYTES, Flags, PAYLOAD_BYTES, rewrite_checksums};
pub use current::{Current, CurrentState};
#[cfg(feature = "faults")]
pub use disk::FaultyDisk;
pub use disk::{
    Disk, File, FileSystem, Hold, Lock, RealDisk, SimDisk, SimFault, SimOp, publish, read_full,
    write_full,
};
pub use error::{Damage, Error};
pub use header::{Mode, Predecessor, SegmentHeader, segment_path};
pub use log::{Draft, Log, Options, Random, SEGMENT_BYTES_MAX, segment_bytes_needed};
#[doc(hidden)]
pub use planted::planted;
pub use recover::{
    Found, Recovered, Visit, current, newest_sealed, read, read_sealed, sealed_chain,
    segment_numbers,
};
pub use scan::{Repair, Torn, scan_segment};
pub use spare::{Spares, UNFINISHED};
pub use survey::{Seen, Survey, segment_header, survey};
