//! Runs: the log's mutations sorted by key and sequence, a segment's worth of memory at a time.
//!
//! - Sequences of a run are above those of the runs before it.
//! - What a clear has made void is dropped as soon as the clear is seen. API keys are no keys: they
//!   are kept apart, and no clear touches them.
//! - A run on disk is read by the compaction that wrote it and by nobody else; damage to it shows in
//!   the CRCs of its records, or in the fingerprint of the snapshot that is made of it.

use std::sync::Arc;

use ekokv_wal::{Batch, Disk, Error, File, planted, read_full, write_full};

use super::merge::{first_key, stands_at};
use crate::state::{Mutation, State};
use crate::store::snapshot::{DIR, TMP_SUFFIX};

/// So much is read or written in one call.
const PIECE_BYTES: usize = 256 << 10;
/// So much is written between two syncs: no sync of the log queues behind more than this.
const SYNC_BYTES: u64 = 1 << 20;
/// So many runs are made one.
const RUNS_MAX: usize = 16;
/// Sequence u64, length u32, CRC u32, length of the key u16 and where it stands u16.
const RECORD_HEAD_BYTES: usize = 20;

/// One mutation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    pub(super) key: &'a str,
    pub(super) sequence: u64,
    /// CRC-32 of the record in the log.
    pub(super) crc: u32,
    /// The encoded mutation.
    pub(super) bytes: &'a [u8],
}

impl Place {
    /// The mutation that `bytes` begin with.
    fn logged<'a>(&self, bytes: &'a [u8]) -> Option<Logged<'a>> {
        let bytes = bytes.get(..self.length as usize)?;
        let at = usize::from(self.key_at);
        let key = bytes.get(at..at + usize::from(self.key_length))?;
        Some(Logged {
            // It was text when it was decoded.
            key: std::str::from_utf8(key).ok()?,
            sequence: self.sequence,
            crc: self.crc,
            bytes,
        })
    }
}

/// Why a batch was not taken.
pub(super) enum Refused {
    /// A mutation cannot be read.
    Undecoded(String),
    /// A run cannot be written.
    Unwritten(Error),
}

/// Where in the arena a mutation and its key stand.
#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: u64,
    at: usize,
    length: u32,
    key_at: u16,
    key_length: u16,
    crc: u32,
}

/// Sorts the log as it is read.
pub(super) struct Collector {
    disk: Arc<dyn Disk>,
    memory_bytes_max: usize,
    arena: Vec<u8>,
    places: Vec<Place>,
    runs: Vec<Run>,
    /// How many files were made.
    made: u64,
    /// The last clear; nothing below it counts.
    pub(super) cleared_at: u64,
    /// The API keys, as they are behind what was read.
    pub(super) secrets: State,
}

impl Collector {
    /// Begins with the API keys of the snapshot that the log follows.
    pub(super) fn new(disk: Arc<dyn Disk>, memory_bytes_max: usize, secrets: State) -> Self {
        Self {
            disk,
            memory_bytes_max,
            arena: Vec::new(),
            places: Vec::new(),
            runs: Vec::new(),
            made: 0,
            cleared_at: 0,
            secrets,
        }
    }

    /// Takes the mutations of a batch.
    ///
    /// # Errors
    /// Why a mutation cannot be read, or a run not be written.
    pub(super) fn take(&mut self, batch: &Batch<'_>) -> Result<(), Refused> {
        for (sequence, record) in (batch.first_sequence..).zip(batch.records()) {
            let record = record.map_err(|reason| Refused::Undecoded(reason.to_owned()))?;
            let mutation = Mutation::decode(record.bytes)
                .map_err(|error| Refused::Undecoded(error.to_string()))?;
            if planted("tombstone-dropped") && matches!(mutation, Mutation::Delete { .. }) {
                continue;
            }
            let Some(key) = mutation.key() else {
                if mutation == Mutation::Clear {
                    self.cleared_at = sequence;
                    self.arena.clear();
                    self.places.clear();
                    // Their files go with them.
                    self.runs.clear();
                } else {
                    let _ = self.secrets.apply(sequence, &mutation);
                }
                continue;
            };
            // The key is a part of the record: where it stands says as much as its bytes.
            let key_at = key.as_ptr() as usize - record.bytes.as_ptr() as usize;
            self.places.push(Place {
                sequence,
                at: self.arena.len(),
                length: record.bytes.len() as u32,
                key_at: key_at as u16,
                key_length: key.len() as u16,
                crc: record.crc,
            });
            self.arena.extend_from_slice(record.bytes);
        }
        if self.arena.len() >= self.memory_bytes_max {
            self.write_run().map_err(Refused::Unwritten)?;
        }
        Ok(())
    }

    /// All runs, oldest first; the last one stays in memory. And the API keys.
    pub(super) fn finish(mut self) -> (Vec<Run>, State) {
        let last = self.sorted();
        let mut runs = std::mem::take(&mut self.runs);
        runs.push(Run::Memory(last));
        (runs, self.secrets)
    }

    fn sorted(&mut self) -> Sorted {
        let arena = std::mem::take(&mut self.arena);
        let mut places = std::mem::take(&mut self.places);
        let key = |place: &Place| {
            let at = place.at + usize::from(place.key_at);
            arena.get(at..at + usize::from(place.key_length))
        };
        // Stable, so sequences stay in order.
        places.sort_by(|a, b| key(a).cmp(&key(b)));
        Sorted {
            arena,
            places,
            next: 0,
        }
    }

    fn write_run(&mut self) -> Result<(), Error> {
        let sorted = self.sorted();
        let mut run = self.new_run()?;
        for index in 0..sorted.places.len() {
            if let Some(logged) = sorted.at(index) {
                run.push(&logged)?;
            }
        }
        self.runs.push(Run::File(run.finish()?));
        // The buffer serves again.
        self.arena = sorted.arena;
        self.arena.clear();
        if self.runs.len() >= RUNS_MAX {
            self.merge_runs()?;
        }
        Ok(())
    }

    /// Makes one run of all, so that neither descriptors nor buffers grow with the log.
    fn merge_runs(&mut self) -> Result<(), Error> {
        let mut runs = std::mem::take(&mut self.runs);
        let mut merged = self.new_run()?;
        while let Some(key) = first_key(None, &runs) {
            for run in &mut runs {
                while stands_at(run, &key) {
                    if let Some(logged) = run.peek() {
                        merged.push(&logged)?;
                    }
                    run.advance()?;
                }
            }
        }
        self.runs.push(Run::File(merged.finish()?));
        Ok(())
    }

    fn new_run(&mut self) -> Result<RunFile, Error> {
        self.made += 1;
        RunFile::create(&self.disk, format!("{DIR}/run-{}{TMP_SUFFIX}", self.made))
    }
}

/// A run in memory.
pub(super) struct Sorted {
    arena: Vec<u8>,
    places: Vec<Place>,
    next: usize,
}

impl Sorted {
    fn at(&self, index: usize) -> Option<Logged<'_>> {
        let place = self.places.get(index)?;
        place.logged(self.arena.get(place.at..)?)
    }
}

/// Mutations in ascending order of key and sequence.
pub(super) enum Run {
    Memory(Sorted),
    File(RunFile),
}

impl Run {
    /// The mutation that is next.
    pub(super) fn peek(&self) -> Option<Logged<'_>> {
        match self {
            Self::Memory(sorted) => sorted.at(sorted.next),
            Self::File(file) => file.peek(),
        }
    }

    /// Passes over it.
    ///
    /// # Errors
    /// If a run on disk cannot be read.
    pub(super) fn advance(&mut self) -> Result<(), Error> {
        match self {
            Self::Memory(sorted) => {
                sorted.next += 1;
                Ok(())
            }
            Self::File(file) => file.advance(),
        }
    }
}

/// A run on disk; the file goes with it.
pub(super) struct RunFile {
    disk: Arc<dyn Disk>,
    path: String,
    file: Box<dyn File>,
    /// Length of the file in bytes.
    length: u64,
    /// Up to where it has been read into the buffer.
    read: u64,
    unsynced: u64,
    buffer: Vec<u8>,
    /// Where the next record begins in the buffer.
    at: usize,
}

impl RunFile {
    fn create(disk: &Arc<dyn Disk>, path: String) -> Result<Self, Error> {
        let file = disk.create(&path).map_err(Error::io("create", &path))?;
        Ok(Self {
            disk: Arc::clone(disk),
            path,
            file,
            length: 0,
            read: 0,
            unsynced: 0,
            buffer: Vec::with_capacity(PIECE_BYTES),
            at: 0,
        })
    }

    /// Appends a mutation; they ascend.
    fn push(&mut self, logged: &Logged<'_>) -> Result<(), Error> {
        // The key is a part of the bytes.
        let key_at = logged.key.as_ptr() as usize - logged.bytes.as_ptr() as usize;
        let out = &mut self.buffer;
        out.extend_from_slice(&logged.sequence.to_le_bytes());
        out.extend_from_slice(&(logged.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&logged.crc.to_le_bytes());
        out.extend_from_slice(&(key_at as u16).to_le_bytes());
        out.extend_from_slice(&(logged.key.len() as u16).to_le_bytes());
        out.extend_from_slice(logged.bytes);
        if out.len() >= PIECE_BYTES {
            self.unsynced += out.len() as u64;
            self.write_buffer()?;
            if self.unsynced >= SYNC_BYTES {
                // Not for safety: it spreads what the disk has to do.
                self.file.sync().map_err(Error::io("sync", &self.path))?;
                self.unsynced = 0;
            }
        }
        Ok(())
    }

    /// Ends writing and begins reading.
    fn finish(mut self) -> Result<Self, Error> {
        self.write_buffer()?;
        self.fill()?;
        Ok(self)
    }

    fn write_buffer(&mut self) -> Result<(), Error> {
        write_full(self.file.as_mut(), self.length, &self.buffer)
            .map_err(Error::io("write", &self.path))?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn head(&self) -> Option<(Place, &[u8])> {
        let rest = self.buffer.get(self.at..)?;
        let (head, rest) = rest.split_first_chunk::<RECORD_HEAD_BYTES>()?;
        let [
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
            a0,
            a1,
            k0,
            k1,
        ] = *head;
        let place = Place {
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            at: 0,
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            key_at: u16::from_le_bytes([a0, a1]),
            key_length: u16::from_le_bytes([k0, k1]),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        };
        Some((place, rest))
    }

    fn peek(&self) -> Option<Logged<'_>> {
        let (place, rest) = self.head()?;
        place.logged(rest)
    }

    fn advance(&mut self) -> Result<(), Error> {
        let length = self.head().map_or(0, |(place, _)| place.length as usize);
        self.at += RECORD_HEAD_BYTES + length;
        self.fill()
    }

    /// Makes sure that the next record, if there is one, is in the buffer.
    fn fill(&mut self) -> Result<(), Error> {
        loop {
            let there = self.buffer.len().saturating_sub(self.at);
            let needed = self.head().map_or(RECORD_HEAD_BYTES, |(place, _)| {
                RECORD_HEAD_BYTES + place.length as usize
            });
            let left = usize::try_from(self.length - self.read).unwrap_or(usize::MAX);
            if there >= needed || (there == 0 && left == 0) {
                return Ok(());
            }
            if left == 0 {
                let cut = std::io::ErrorKind::UnexpectedEof;
                return Err(Error::io("read", &self.path)(cut.into()));
            }
            self.buffer.drain(..self.at.min(self.buffer.len()));
            self.at = 0;
            // A length is believed as far as the file goes.
            let more = (needed - there).max(PIECE_BYTES).min(left);
            let end = self.buffer.len();
            self.buffer.resize(end + more, 0);
            let into = self.buffer.get_mut(end..).unwrap_or_default();
            read_full(self.file.as_ref(), self.read, into)
                .map_err(Error::io("read", &self.path))?;
            self.read += more as u64;
        }
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // What is left is removed at the next start.
        let _ = self.disk.remove(&self.path);
    }
}
