//! What of a damaged snapshot verifies, block by block.
//!
//! What always holds:
//! - A key that is handed on lies in a block whose CRC is right, and has the CRC that came with it.
//! - [`Parts::covers`] says of a key whether the snapshot's word on it is known, be it that it is absent.
//!
//! A header that is lost is not needed for that: the CRC with which all others are seeded follows from the
//! footer's, and each block confirms it.
//!
//! Behind a block that does not verify, the next one is looked for at the place that its length gives, and
//! then at each place from which blocks follow one another up to the footer: their number then tells which
//! one it is, and its CRC confirms it.

use ekokv_wal::{Disk, File, read_full};

use super::block::Entries;
use super::error::Bad;
use super::format::{
    BLOCK_HEADER_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Header, block_crc, seed_by_footer,
    with_crc,
};
use super::reader::read_block;
use crate::state::{Key, Keyring, Recorded, State};

/// So much is looked through at once.
const PIECE_BYTES: usize = 1 << 20;

/// Keys that are not known: those between two others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Gap {
    /// Where the damage begins.
    pub(in crate::store) offset: u64,
    /// What is wrong.
    pub(in crate::store) reason: String,
    /// The last key before; `None`: from the first one on.
    pub(in crate::store) after: Option<Key>,
    /// The first key behind; `None`: to the last one.
    pub(in crate::store) before: Option<Key>,
}

/// What was found.
#[derive(Debug, Default)]
pub(in crate::store) struct Parts {
    /// The header, if it verifies.
    pub(in crate::store) header: Option<Header>,
    /// Blocks that verify.
    pub(in crate::store) blocks: u64,
    pub(in crate::store) gaps: Vec<Gap>,
    /// The API keys that were found.
    pub(in crate::store) keyring: Keyring,
    /// Whether these are all.
    pub(in crate::store) keyring_whole: bool,
}

impl Parts {
    /// Whether what the snapshot says of `key` is known.
    pub(in crate::store) fn covers(&self, key: &str) -> bool {
        let within = |gap: &Gap| {
            gap.after.as_deref().is_none_or(|after| after < key)
                && gap.before.as_deref().is_none_or(|before| key < before)
        };
        !self.gaps.iter().any(within)
    }
}

/// Reads what verifies of the snapshot at `path`; each key goes to `visit`, ascending.
///
/// # Errors
/// If none of it can be used: neither header nor footer tells the seed of its CRCs, or it cannot be opened.
pub(in crate::store) fn read_parts(
    disk: &dyn Disk,
    path: &str,
    visit: &mut dyn FnMut(Recorded),
) -> Result<Parts, Bad> {
    let mut reader = PartsReader::open(disk, path)?;
    let mut parts = Parts {
        header: reader.header,
        keyring_whole: true,
        ..Parts::default()
    };
    let mut secrets = State::new(0);
    let mut last_key: Option<Key> = None;
    // A gap that is not closed yet: where it begins and why.
    let mut open: Option<(u64, String)> = None;
    let close =
        |parts: &mut Parts, open: &mut Option<(u64, String)>, after: &Option<Key>, before| {
            if let Some((offset, reason)) = open.take() {
                parts.gaps.push(Gap {
                    offset,
                    reason,
                    after: after.clone(),
                    before,
                });
            }
        };
    while reader.at < reader.end {
        let at = reader.at;
        let unpacked = reader.next().and_then(|(count, entries)| {
            let damaged = |reason: &str| Bad::damaged(path, at, reason);
            let mut entries = Entries::new(&entries, count);
            let mut found = Vec::new();
            while let Some(recorded) = entries.next(&mut secrets).map_err(damaged)? {
                found.push(recorded.to_recorded());
            }
            Ok(found)
        });
        match unpacked {
            Ok(found) => {
                parts.blocks += 1;
                if let Some(first) = found.first() {
                    close(&mut parts, &mut open, &last_key, Some(first.key.clone()));
                }
                for recorded in found {
                    last_key = Some(recorded.key.clone());
                    visit(recorded);
                }
            }
            Err(bad) => {
                // API keys come first: once a key was seen, they are all there.
                parts.keyring_whole &= last_key.is_some();
                open.get_or_insert((at, bad.damage().reason.clone()));
                if !reader.resume() {
                    break;
                }
            }
        }
    }
    if open.is_none() && !reader.ends_known {
        let reason = "its footer does not verify: whether there were more keys is not known";
        open = Some((reader.end, reason.to_owned()));
    }
    close(&mut parts, &mut open, &last_key, None);
    parts.keyring = secrets.keyring().clone();
    Ok(parts)
}

/// The file, and how far it has been read.
struct PartsReader {
    file: Box<dyn File>,
    path: String,
    header: Option<Header>,
    seed: u32,
    /// Offset of the block that is next.
    at: u64,
    /// Its number.
    number: u64,
    /// Where the footer is.
    end: u64,
    /// Length of the longest block, if the footer tells.
    longest: u32,
    /// How many blocks there are, if the footer tells.
    blocks: Option<u64>,
    ends_known: bool,
}

impl PartsReader {
    fn open(disk: &dyn Disk, path: &str) -> Result<Self, Bad> {
        let file = disk.open(path).map_err(Bad::unreadable(path, 0))?;
        let length = file.length().map_err(Bad::unreadable(path, 0))?;
        let end = length.saturating_sub(FOOTER_BYTES as u64);
        if end < HEADER_BYTES as u64 {
            return Err(Bad::damaged(
                path,
                length,
                "it is shorter than any snapshot",
            ));
        }
        let mut head = [0; HEADER_BYTES];
        read_full(file.as_ref(), 0, &mut head).map_err(Bad::unreadable(path, 0))?;
        let mut tail = [0; FOOTER_BYTES];
        read_full(file.as_ref(), end, &mut tail).map_err(Bad::unreadable(path, end))?;
        let (header, seed) = match Header::decode(path, &head) {
            Ok((header, seed)) => (Some(header), seed),
            Err(bad @ Bad::Damaged(_)) => {
                let seed = seed_by_footer(&tail, length).ok_or(bad)?;
                // If the header's content has this CRC, it was the CRC beside it that was damaged.
                let repaired = with_crc(head, seed);
                let header = Header::decode(path, &repaired).ok();
                (header.map(|(header, _)| header), seed)
            }
            Err(foreign) => return Err(foreign),
        };
        let footer = Footer::decode(path, length, &tail, seed).ok();
        Ok(Self {
            file,
            path: path.to_owned(),
            header,
            seed,
            at: HEADER_BYTES as u64,
            number: 0,
            // What stands in the footer's place may be the end of a block that was cut.
            end,
            longest: footer.map_or(u32::MAX, |footer| footer.longest_block),
            blocks: footer.map(|footer| footer.blocks),
            ends_known: footer.is_some(),
        })
    }

    /// Reads the next block and goes on behind it, if it verifies.
    fn next(&mut self) -> Result<(u32, Vec<u8>), Bad> {
        let (number, seed) = (self.number, self.seed);
        let (count, crc, entries) = read_block(
            self.file.as_ref(),
            &self.path,
            self.at,
            self.end,
            self.longest,
        )?;
        if crc != block_crc(seed, number, count, &entries) {
            return Err(Bad::damaged(&self.path, self.at, "a block does not verify"));
        }
        self.at += (BLOCK_HEADER_BYTES + entries.len()) as u64;
        self.number += 1;
        Ok((count, entries))
    }

    /// Whether the block `number` stands at `at`.
    fn verifies(&mut self, at: u64, number: u64) -> bool {
        let before = (self.at, self.number);
        (self.at, self.number) = (at, number);
        let found = self.next().is_ok();
        (self.at, self.number) = before;
        found
    }

    /// Goes to the next block that verifies; `false` if none is found.
    fn resume(&mut self) -> bool {
        self.resume_by_lengths() || self.resume_by_search()
    }

    /// Believes the lengths, one behind the other, until a block verifies or they end at the footer.
    fn resume_by_lengths(&mut self) -> bool {
        let (mut at, mut number) = (self.at, self.number);
        while let Some(length) = self.length_at(at) {
            at += BLOCK_HEADER_BYTES as u64 + u64::from(length);
            number += 1;
            let at_end = at == self.end && self.blocks == Some(number);
            if at_end || self.verifies(at, number) {
                (self.at, self.number) = (at, number);
                return true;
            }
        }
        false
    }

    /// Looks for a place from which blocks follow one another up to the footer.
    fn resume_by_search(&mut self) -> bool {
        let Some(blocks) = self.blocks else {
            return false;
        };
        let mut piece = vec![0; PIECE_BYTES];
        let mut piece_at = self.at + 1;
        while piece_at < self.end {
            let left = usize::try_from(self.end - piece_at).unwrap_or(usize::MAX);
            let taken = left.min(PIECE_BYTES);
            let Some(bytes) = piece.get_mut(..taken) else {
                return false;
            };
            if read_full(self.file.as_ref(), piece_at, bytes).is_err() {
                return false;
            }
            for (index, window) in piece.windows(4).take(taken.saturating_sub(3)).enumerate() {
                let at = piece_at + index as u64;
                let length = window.try_into().map_or(0, u32::from_le_bytes);
                let fits =
                    u64::from(length) <= self.end.saturating_sub(at + BLOCK_HEADER_BYTES as u64);
                if !fits || length == 0 {
                    continue;
                }
                let Some(number) = self.to_footer(at).and_then(|more| blocks.checked_sub(more))
                else {
                    continue;
                };
                if number > self.number && self.verifies(at, number) {
                    (self.at, self.number) = (at, number);
                    return true;
                }
            }
            // The last three bytes may begin a length.
            piece_at += (taken.max(4) - 3) as u64;
            if taken < 4 {
                return false;
            }
        }
        false
    }

    /// How many blocks follow one another from `at` to the footer, if they end just there.
    fn to_footer(&self, mut at: u64) -> Option<u64> {
        let mut blocks = 0;
        while at < self.end {
            at += BLOCK_HEADER_BYTES as u64 + u64::from(self.length_at(at)?);
            blocks += 1;
        }
        (at == self.end).then_some(blocks)
    }

    /// The length of the block at `at`, if one fits there. No block is empty.
    fn length_at(&self, at: u64) -> Option<u32> {
        let room = self.end.checked_sub(at + BLOCK_HEADER_BYTES as u64)?;
        let mut length = [0; 4];
        read_full(self.file.as_ref(), at, &mut length).ok()?;
        let length = u32::from_le_bytes(length);
        (length > 0 && u64::from(length) <= room).then_some(length)
    }
}
