//! Writes a snapshot, front to back.

use std::sync::Arc;

use ekokv_wal::{Disk, Error, File, planted, write_full};
use xxhash_rust::xxh3::Xxh3;

use super::block;
use super::format::{BLOCK_HEADER_BYTES, Footer, HEADER_BYTES, Header, block_crc};
use crate::state::{Fingerprint, Keyring, Recorded};

/// A block with so many bytes of entries is complete.
const BLOCK_BYTES: usize = 64 << 10;
/// So much is written in one call: until it returns, the processor may be nobody else's.
const WRITE_BYTES: usize = 256 << 10;
/// So much is written between two syncs: no sync of the log queues behind more than this.
const SYNC_BYTES: u64 = 1 << 20;

/// A snapshot that is being written. Until [`Writer::finish`] nothing may be read from the file.
pub(in crate::store) struct Writer {
    file: Box<dyn File>,
    path: String,
    seed: u32,
    /// Encoded and not written yet.
    buffer: Vec<u8>,
    /// Bytes written.
    written: u64,
    unsynced: u64,
    block: Vec<u8>,
    block_entries: u32,
    /// The last key of the block.
    last_key: Box<str>,
    blocks: u64,
    longest_block: u32,
    blocks_hash: Xxh3,
    fingerprint: Fingerprint,
    scratch: Vec<u8>,
}

impl Writer {
    /// Begins the file `path` with a header and the API keys.
    ///
    /// # Errors
    /// The call that failed.
    pub(in crate::store) fn create(
        disk: &Arc<dyn Disk>,
        path: &str,
        header: &Header,
        keyring: &Keyring,
    ) -> Result<Self, Error> {
        let file = disk.create(path).map_err(Error::io("create", path))?;
        let (bytes, seed) = header.encode();
        let mut fingerprint = Fingerprint::default();
        fingerprint.add_keyring(keyring);
        let mut writer = Self {
            file,
            path: path.to_owned(),
            seed,
            buffer: bytes.to_vec(),
            written: 0,
            unsynced: 0,
            block: Vec::new(),
            block_entries: 0,
            last_key: Box::default(),
            blocks: 0,
            longest_block: 0,
            blocks_hash: Xxh3::new(),
            fingerprint,
            scratch: Vec::new(),
        };
        writer.block_entries = block::push_keyring(&mut writer.block, keyring);
        Ok(writer)
    }

    /// Appends a key; keys ascend.
    ///
    /// # Errors
    /// The call that failed.
    pub(in crate::store) fn push(&mut self, recorded: &Recorded) -> Result<(), Error> {
        self.fingerprint
            .add(&mut self.scratch, &recorded.key, recorded.kept.by_ref());
        let entries = block::push_key(&mut self.block, &self.last_key, &recorded.by_ref());
        self.block_entries = self.block_entries.saturating_add(entries);
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()
        } else {
            self.last_key.clone_from(&recorded.key);
            Ok(())
        }
    }

    /// Bytes of the file so far.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.written + (self.buffer.len() + self.block.len()) as u64
    }

    /// Ends the file and syncs it.
    ///
    /// # Errors
    /// The call that failed.
    pub(in crate::store) fn finish(mut self) -> Result<Footer, Error> {
        self.end_block()?;
        let length = self.written + (self.buffer.len() + HEADER_BYTES) as u64;
        let footer = Footer {
            blocks: self.blocks,
            fingerprint: self.fingerprint,
            blocks_hash: self.blocks_hash.digest128(),
            length,
            longest_block: self.longest_block,
        };
        self.buffer.extend_from_slice(&footer.encode(self.seed));
        self.write()?;
        if !planted("snapshot-named-unsynced") {
            self.sync()?;
        }
        Ok(footer)
    }

    fn end_block(&mut self) -> Result<(), Error> {
        if self.block_entries == 0 {
            return Ok(());
        }
        let mut head = [0; BLOCK_HEADER_BYTES];
        // A block is one key beyond 64 KiB at most: value and links are less than 4 GiB.
        head[..4].copy_from_slice(&(self.block.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&self.block_entries.to_le_bytes());
        let crc = block_crc(self.seed, self.blocks, self.block_entries, &self.block);
        head[8..].copy_from_slice(&crc.to_le_bytes());
        self.blocks_hash.update(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&head);
        self.longest_block = self.longest_block.max(self.block.len() as u32);
        self.buffer.append(&mut self.block);
        self.blocks += 1;
        self.block_entries = 0;
        self.last_key = Box::default();
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        write_full(self.file.as_mut(), self.written, &self.buffer)
            .map_err(Error::io("write", &self.path))?;
        self.written += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync().map_err(Error::io("sync", &self.path))?;
        self.unsynced = 0;
        Ok(())
    }
}
