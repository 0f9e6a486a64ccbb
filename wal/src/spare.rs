//! The spare: the next segment's file, filled with zeros and synced before it is needed.
//!
//! What always holds: a write into a spare changes no metadata of the file system, for its blocks
//! are written already (after fallocate alone they are not, and each sync pays for that). At most one
//! spare is there, and while it is being turned into a segment no other one is begun.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::current::{self, CURRENT_BYTES};
use crate::disk::{Disk, File, write_full};
use crate::error::Error;
use crate::header::{DIR, segment_path};

/// Bytes that are written between two calls of the pacing function.
const FILL_BYTES: usize = 4 << 20;

/// Path of the spare.
pub(crate) const SPARE_PATH: &str = "wal/next.tmp";

/// A file of zeros, and the file that will become its `CURRENT`.
pub(crate) struct Spare {
    pub(crate) file: Box<dyn File>,
    pub(crate) current: Box<dyn File>,
    pub(crate) length: u64,
}

/// Makes spares on one thread and hands them to the log on another.
pub struct Spares {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    slot: Mutex<Slot>,
}

struct Slot {
    state: State,
    /// Finished segments whose unused end can be given back: number, offset, length.
    finished: Vec<(u64, u64, u64)>,
}

enum State {
    Empty,
    Ready(Spare),
    /// The log renames the spare just now: its name is not free yet.
    Taken,
}

impl Spares {
    pub(crate) fn new(disk: Arc<dyn Disk>, segment_bytes: u64) -> Self {
        let slot = Slot {
            state: State::Empty,
            finished: Vec::new(),
        };
        Self {
            disk,
            segment_bytes,
            slot: Mutex::new(slot),
        }
    }

    /// Length of the segments that are made, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Whether a spare is ready, or is being turned into the present segment just now.
    #[must_use]
    pub fn ready(&self) -> bool {
        !matches!(self.slot().state, State::Empty)
    }

    /// Makes a spare if there is none, and gives the ends of finished segments back. `pace` is
    /// called between pieces of 4 MiB, so that the caller can leave the disk to others.
    ///
    /// # Errors
    /// The call that failed; what was made so far is removed. Nothing but the spare is touched, so
    /// it can be tried again.
    pub fn prepare(&self, pace: &mut dyn FnMut()) -> Result<(), Error> {
        for (number, offset, length) in std::mem::take(&mut self.slot().finished) {
            // Only space is at stake: the segment is removed some day anyway.
            let path = segment_path(number);
            let punched = self
                .disk
                .open_write(&path)
                .and_then(|mut f| f.punch(offset, length));
            punched.map_err(Error::io("give back the end of", &path))?;
        }
        if !matches!(self.slot().state, State::Empty) {
            return Ok(());
        }
        let made = self.make(self.segment_bytes, pace);
        match made {
            Ok(spare) => {
                self.slot().state = State::Ready(spare);
                Ok(())
            }
            Err(error) => {
                // A second failure adds nothing: `.tmp` files are removed at the next start.
                let _ = self.disk.remove(SPARE_PATH);
                let _ = self.disk.remove(current::TMP_NAME);
                Err(error)
            }
        }
    }

    /// Makes a spare of a given length, synced.
    pub(crate) fn make(&self, length: u64, pace: &mut dyn FnMut()) -> Result<Spare, Error> {
        let mut file = self
            .disk
            .create(SPARE_PATH)
            .map_err(Error::io("create", SPARE_PATH))?;
        fill(file.as_mut(), length, pace).map_err(Error::io("fill", SPARE_PATH))?;
        let name = current::TMP_NAME;
        let mut current = self.disk.create(name).map_err(Error::io("create", name))?;
        fill(current.as_mut(), CURRENT_BYTES as u64, pace).map_err(Error::io("fill", name))?;
        Ok(Spare {
            file,
            current,
            length,
        })
    }

    /// Takes the spare; [`Spares::taken`] must follow. Makes one on the spot if none is ready.
    pub(crate) fn take(&self) -> Result<Spare, Error> {
        match std::mem::replace(&mut self.slot().state, State::Taken) {
            State::Ready(spare) => Ok(spare),
            State::Empty | State::Taken => self.make(self.segment_bytes, &mut || {}),
        }
    }

    /// The spare that was taken is a segment now, or given up: another one may be made.
    pub(crate) fn taken(&self, finished: Option<(u64, u64, u64)>) {
        let mut slot = self.slot();
        slot.state = State::Empty;
        slot.finished.extend(finished);
    }

    pub(crate) fn remove_unfinished(&self) -> Result<(), Error> {
        for path in [SPARE_PATH, current::TMP_NAME] {
            match self.disk.remove(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fill(file: &mut dyn File, length: u64, pace: &mut dyn FnMut()) -> std::io::Result<()> {
    let zeros = vec![
        0;
        usize::try_from(length)
            .unwrap_or(FILL_BYTES)
            .min(FILL_BYTES)
    ];
    let mut offset = 0;
    while offset < length {
        let piece = usize::try_from(length - offset)
            .unwrap_or(zeros.len())
            .min(zeros.len());
        write_full(file, offset, zeros.get(..piece).unwrap_or_default())?;
        offset += piece as u64;
        // Piece by piece, so that the log's own syncs never queue behind a whole segment of zeros.
        file.sync()?;
        pace();
    }
    Ok(())
}

/// Directory of the spare.
pub(crate) const SPARE_DIR: &str = DIR;
