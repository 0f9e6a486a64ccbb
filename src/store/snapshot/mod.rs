//! Snapshots: the whole state as of the end of a log segment, in one file.
//!
//! What always holds:
//! - A snapshot has its name only after it was written, synced and read back, and what was read back
//!   has the fingerprint that the live state had at that place of the log.
//! - Every byte of the file is covered by a CRC, and the CRC of a block by where the block stands and
//!   in which file.
//! - What [`load`] returns has the fingerprint that the footer names; else it is damage.
//!
//! # Format, version 1
//!
//! `snapshots/<last sequence, 20 digits>.snap`: a header, blocks, a footer. Integers are little endian.
//! CRCs are CRC-32 (IEEE, as in zlib).
//!
//! ## Header: 128 bytes
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `ekokvsnp` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 16 | store id |
//! | 32 | 8 | the segment with whose end the snapshot ends: number |
//! | 40 | 16 | its salt |
//! | 56 | 8 | offset of its end |
//! | 64 | 8 | number of its last batch |
//! | 72 | 8 | last sequence there; the file's name |
//! | 80 | 16 | chain value there |
//! | 96 | 8 | store time, milliseconds since the Unix epoch |
//! | 104 | 20 | zero |
//! | 124 | 4 | CRC of bytes 0 to 123 |
//!
//! ## Block
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | length of the entries in bytes |
//! | 4 | 4 | number of entries |
//! | 8 | 4 | CRC, seeded with the header's, of: number of the block from 0 (u64), bytes 0 to 7, the entries |
//! | 12 | – | entries |
//!
//! Entries are about 64 KiB together, or one larger key with its links. API keys come first, in the
//! order of their ids behind the hashing key, then keys in ascending byte order. A link stands behind
//! its key, in the same block.
//!
//! | kind (u8) | entry | then |
//! | --- | --- | --- |
//! | 1 | secret | length u32, CRC u32, a mutation of the kinds *hashing key* or *api key* |
//! | 2 | value | flags u8 (1 envelope, 2 deadline), key: shared u16, rest u16; value length u32, version u64, CRC u32 of the put that brought it, \[deadline u64\], rest of the key, value |
//! | 3 | link | created at u64, lengths: collection u16, record id u16, metadata u32; CRC u32 of the link mutation that brought it, collection, record id, metadata |
//! | 4 | remembered | key: shared u16, rest u16; version u64, deadline u64, rest of the key |
//!
//! A key is the first *shared* bytes of the key before it in the block, and the rest. The CRCs of
//! mutations are those that the log has: they were made when the request came in.
//!
//! ## Footer: the last 128 bytes
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `ekokvend` |
//! | 8 | 8 | number of blocks |
//! | 16 | 8 | number of values |
//! | 24 | 8 | number of remembered keys |
//! | 32 | 8 | number of links |
//! | 40 | 8 | number of API keys |
//! | 48 | 16 | digest of the state: the sum, modulo 2^128, of a hash of each key and API key |
//! | 64 | 16 | XXH3-128 of the blocks' CRCs, in their order |
//! | 80 | 8 | length of the file |
//! | 88 | 4 | length of the longest block's entries in bytes |
//! | 92 | 32 | zero |
//! | 124 | 4 | CRC, seeded with the header's, of bytes 0 to 123 |

mod block;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod names;
mod parts;
mod reader;
mod writer;

pub(super) use error::{Bad, is_passing};
pub(super) use format::{Footer, Header};
pub(super) use names::{DIR, TMP_SUFFIX, path_of, sequence_of_name};
pub(super) use parts::{Gap, Parts, read_parts};
pub(super) use reader::{Scan, load, verify};
pub(super) use writer::Writer;

#[cfg(test)]
mod tests;
