//! Reads snapshots: into a state, or through them key by key.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use ekokv_wal::{Disk, File, planted, read_full};
use xxhash_rust::xxh3::Xxh3;

use super::block::{Entries, NEWER};
use super::error::Bad;
use super::format::{BLOCK_HEADER_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Header, block_crc};
use crate::state::{Fingerprint, KeptRef, Keyring, Loader, Recorded, RecordedRef, State};

/// Blocks that are read and checked ahead of who builds from them.
const BLOCKS_AHEAD: usize = 16;

/// A block whose CRC has been checked.
struct Block {
    offset: u64,
    count: u32,
    entries: Vec<u8>,
}

/// An open snapshot: header and footer verify.
struct Opened {
    file: Box<dyn File>,
    path: String,
    header: Header,
    footer: Footer,
    seed: u32,
}

fn open(disk: &dyn Disk, path: &str) -> Result<Opened, Bad> {
    let file = disk.open(path).map_err(Bad::unreadable(path, 0))?;
    let length = file.length().map_err(Bad::unreadable(path, 0))?;
    if length < (HEADER_BYTES + FOOTER_BYTES) as u64 {
        return Err(Bad::damaged(
            path,
            length,
            "it is shorter than any snapshot",
        ));
    }
    let mut head = [0; HEADER_BYTES];
    read_full(file.as_ref(), 0, &mut head).map_err(Bad::unreadable(path, 0))?;
    let (header, seed) = Header::decode(path, &head)?;
    let mut tail = [0; FOOTER_BYTES];
    let at = length - FOOTER_BYTES as u64;
    read_full(file.as_ref(), at, &mut tail).map_err(Bad::unreadable(path, at))?;
    let footer = Footer::decode(path, length, &tail, seed)?;
    Ok(Opened {
        file,
        path: path.to_owned(),
        header,
        footer,
        seed,
    })
}

/// The blocks of a snapshot, in their order; checks behind the last one that they are all.
struct Blocks {
    opened: Opened,
    offset: u64,
    number: u64,
    hash: Xxh3,
    ended: bool,
}

impl Blocks {
    fn new(opened: Opened) -> Self {
        Self {
            opened,
            offset: HEADER_BYTES as u64,
            number: 0,
            hash: Xxh3::new(),
            ended: false,
        }
    }

    fn read(&mut self) -> Result<Option<Block>, Bad> {
        let Opened {
            file,
            path,
            footer,
            seed,
            ..
        } = &self.opened;
        let at = self.offset;
        let left = (footer.length - FOOTER_BYTES as u64).saturating_sub(at);
        if left == 0 {
            return if self.number == footer.blocks && self.hash.digest128() == footer.blocks_hash {
                Ok(None)
            } else {
                Err(Bad::damaged(
                    path,
                    at,
                    "its blocks are not those that its footer names",
                ))
            };
        }
        let end = footer.length - FOOTER_BYTES as u64;
        let (count, crc, entries) = read_block(file.as_ref(), path, at, end, footer.longest_block)?;
        if crc != block_crc(*seed, self.number, count, &entries) {
            if planted("snapshot-damage-is-an-end") {
                return Ok(None);
            }
            return Err(Bad::damaged(path, at, "a block does not verify"));
        }
        self.hash.update(&crc.to_le_bytes());
        self.offset = at + (BLOCK_HEADER_BYTES + entries.len()) as u64;
        self.number += 1;
        Ok(Some(Block {
            offset: at,
            count,
            entries,
        }))
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let block = self.read().transpose();
        self.ended = !matches!(block, Some(Ok(_)));
        block
    }
}

/// Number of entries, CRC and entries of the block at `at`, which ends before `end`; its CRC is not
/// checked yet.
pub(super) fn read_block(
    file: &dyn File,
    path: &str,
    at: u64,
    end: u64,
    longest: u32,
) -> Result<(u32, u32, Vec<u8>), Bad> {
    let left = end.saturating_sub(at);
    if left < BLOCK_HEADER_BYTES as u64 {
        return Err(Bad::damaged(path, at, "a block is cut short"));
    }
    let mut head = [0; BLOCK_HEADER_BYTES];
    read_full(file, at, &mut head).map_err(Bad::unreadable(path, at))?;
    let [l0, l1, l2, l3, n0, n1, n2, n3, c0, c1, c2, c3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    // Before anything is allocated.
    if length > longest || u64::from(length) > left - BLOCK_HEADER_BYTES as u64 {
        let reason = "a block is longer than the file, or than any of its blocks";
        return Err(Bad::damaged(path, at, reason));
    }
    let mut entries = vec![0; length as usize];
    let entries_at = at + BLOCK_HEADER_BYTES as u64;
    read_full(file, entries_at, &mut entries).map_err(Bad::unreadable(path, entries_at))?;
    let count = u32::from_le_bytes([n0, n1, n2, n3]);
    Ok((count, u32::from_le_bytes([c0, c1, c2, c3]), entries))
}

/// The keys of a snapshot one after the other, ascending, each verified.
pub(in crate::store) struct Scan {
    blocks: Box<dyn Iterator<Item = Result<Block, Bad>>>,
    path: String,
    header: Header,
    footer: Footer,
    /// Keys of the present block, the next one last.
    ready: Vec<Recorded>,
    /// The last key that was read; empty before the first.
    last_key: String,
    /// Where secrets go; holds nothing else.
    secrets: State,
}

impl Scan {
    /// Opens a snapshot. All secrets are read once the first key is, or the end is seen.
    ///
    /// # Errors
    /// If header or footer do not verify.
    pub(in crate::store) fn open(disk: &dyn Disk, path: &str) -> Result<Self, Bad> {
        let opened = open(disk, path)?;
        let (header, footer) = (opened.header, opened.footer);
        Ok(Self::over(
            path,
            header,
            footer,
            Box::new(Blocks::new(opened)),
        ))
    }

    fn over(
        path: &str,
        header: Header,
        footer: Footer,
        blocks: Box<dyn Iterator<Item = Result<Block, Bad>>>,
    ) -> Self {
        Self {
            blocks,
            path: path.to_owned(),
            header,
            footer,
            ready: Vec::new(),
            last_key: String::new(),
            secrets: State::new(0),
        }
    }

    pub(in crate::store) fn header(&self) -> &Header {
        &self.header
    }

    pub(in crate::store) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The API keys that were read so far.
    pub(in crate::store) fn keyring(&self) -> &Keyring {
        self.secrets.keyring()
    }

    /// The next key; `None` at the end, which has been verified then, but for the fingerprint.
    ///
    /// # Errors
    /// What is damaged.
    pub(in crate::store) fn next(&mut self) -> Result<Option<Recorded>, Bad> {
        loop {
            if let Some(recorded) = self.ready.pop() {
                return Ok(Some(recorded));
            }
            let Some(block) = self.blocks.next().transpose()? else {
                return Ok(None);
            };
            let mut ready = std::mem::take(&mut self.ready);
            let unpacked = self.unpack(&block, &mut |recorded| {
                ready.push(recorded.to_recorded());
                true
            });
            unpacked?;
            ready.reverse();
            self.ready = ready;
        }
    }

    /// Hands over one key after the other, ascending, until the end, which has been verified then, but for
    /// the fingerprint, or until `visit` says that it is enough. Whether it came to the end. A key is not
    /// copied, and may be of a block that turns out to be damaged further on.
    ///
    /// # Errors
    /// What is damaged.
    fn visit(&mut self, visit: &mut dyn FnMut(RecordedRef<'_>) -> bool) -> Result<bool, Bad> {
        while let Some(block) = self.blocks.next().transpose()? {
            if !self.unpack(&block, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unpack(
        &mut self,
        block: &Block,
        visit: &mut dyn FnMut(RecordedRef<'_>) -> bool,
    ) -> Result<bool, Bad> {
        let damaged = |reason: &str| Bad::damaged(&self.path, block.offset, reason);
        let mut entries = Entries::new(&block.entries, block.count);
        let bad = |reason: &'static str| {
            if reason == NEWER {
                Bad::foreign(&self.path, reason)
            } else {
                damaged(reason)
            }
        };
        let mut is_first = true;
        while let Some(recorded) = entries.next(&mut self.secrets).map_err(bad)? {
            // Within a block they were looked at as they were read.
            if std::mem::take(&mut is_first) && self.last_key.as_str() >= recorded.key {
                return Err(damaged("keys do not ascend"));
            }
            if !visit(recorded) {
                return Ok(false);
            }
        }
        if !is_first {
            entries.last_key().clone_into(&mut self.last_key);
        }
        Ok(true)
    }

    /// The damage if what was read is not what the footer names.
    fn compare(&self, found: &Fingerprint) -> Result<(), Bad> {
        let named = &self.footer.fingerprint;
        let unchecked = planted("fingerprint-unchecked") || planted("snapshot-damage-is-an-end");
        if found == named || unchecked {
            return Ok(());
        }
        Err(Bad::damaged(
            &self.path,
            self.footer.length - FOOTER_BYTES as u64,
            format!("its footer names {named:?}, and its entries are {found:?}"),
        ))
    }
}

/// Reads a snapshot into a state. Reading and checking go on while the state is built.
///
/// # Errors
/// If any of it is not what was written, or the disk does not hand it over.
pub(in crate::store) fn load(
    disk: &dyn Disk,
    path: &str,
    store_id: [u8; 16],
    retention_ms: u64,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Header, Footer, State), Bad> {
    let opened = open(disk, path)?;
    let (header, footer) = (opened.header, opened.footer);
    if header.store_id != store_id {
        return Err(Bad::foreign(path, "it belongs to another store"));
    }
    thread::scope(|scope| {
        let (sender, blocks): (_, Receiver<Result<Block, Bad>>) = sync_channel(BLOCKS_AHEAD);
        let read_ahead = move || {
            for block in Blocks::new(opened) {
                if let Ok(block) = &block {
                    progress(block.offset, footer.length);
                }
                // Whoever builds has found damage and gone.
                if sender.send(block).is_err() {
                    return;
                }
            }
        };
        let name = thread::Builder::new().name("read-ahead".to_owned());
        let reader = name
            .spawn_scoped(scope, read_ahead)
            .map_err(Bad::unreadable(path, 0))?;
        let scan = Scan::over(path, header, footer, Box::new(blocks.into_iter()));
        let built = build(scan, retention_ms);
        // The thread is gone, and not only done, when this returns. If it panicked, blocks are missing,
        // and that was found.
        let _ = reader.join();
        built.map(|state| (header, footer, state))
    })
}

/// A state of what a scan reads, which must be all that the footer names.
fn build(mut scan: Scan, retention_ms: u64) -> Result<State, Bad> {
    let mut loader = Loader::new(retention_ms);
    scan.visit(&mut |recorded| {
        loader.push(recorded.key, recorded.kept);
        true
    })?;
    let state = loader.finish().with_keyring(scan.keyring().clone());
    scan.compare(&state.fingerprint())?;
    Ok(state)
}

/// Reads a snapshot through and compares it with its footer. `pace` is called between keys with the
/// bytes that were read since, and says whether to go on; `None` if it said no.
///
/// # Errors
/// If any of it is not what was written, or the disk does not hand it over.
pub(in crate::store) fn verify(
    disk: &Arc<dyn Disk>,
    path: &str,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<(Header, Footer)>, Bad> {
    let opened = open(disk.as_ref(), path)?;
    // What lies in memory says nothing about the disk.
    opened.file.uncache();
    let (header, footer) = (opened.header, opened.footer);
    let mut scan = Scan::over(path, header, footer, Box::new(Blocks::new(opened)));
    let mut fingerprint = Fingerprint::default();
    let mut scratch = Vec::new();
    let at_end = scan.visit(&mut |recorded| {
        fingerprint.add(&mut scratch, recorded.key, recorded.kept);
        let value = match recorded.kept {
            KeptRef::Live(entry) => entry.value.len(),
            KeptRef::Remembered { .. } => 0,
        };
        pace((recorded.key.len() + value) as u64)
    })?;
    if !at_end {
        return Ok(None);
    }
    fingerprint.add_keyring(scan.keyring());
    scan.compare(&fingerprint)?;
    Ok(Some((scan.header, scan.footer)))
}
