//! The spare: the next segment's file, filled with zeros and synced before it is needed.
//!
//! What always holds: a write into a spare changes no metadata of the file system, for its blocks
//! are written already (after fallocate alone they are not, and each sync pays for that). At most one
//! spare is there, and while it is being turned into a segment no other one is begun.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::cell::BLOCK_BYTES;
use crate::current::{self, CURRENT_BYTES};
use crate::disk::{Disk, File, read_full, write_full};
use crate::error::Error;
use crate::header::{DIR, segment_path};
use crate::planted::planted;

/// Bytes that are written and synced between two calls of the pacing function. A kernel that preempts
/// nothing in its own code gives the processor back only then: with 4 MiB others waited for 8 ms.
const PACED_BYTES: usize = 512 << 10;
/// The same when somebody waits for the spare: each sync of a file that grows costs the file system a
/// commit.
const HURRIED_BYTES: usize = 4 << 20;

/// Path of the spare.
pub(crate) const SPARE_PATH: &str = "wal/next.tmp";

/// Files that an earlier run may have left, and that a start removes: without that it makes none of its own.
pub const UNFINISHED: [&str; 3] = [SPARE_PATH, current::TMP_NAME, current::RENEWED_TMP_NAME];

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
    /// A spare was made, or could not be.
    made: Condvar,
}

struct Slot {
    state: State,
    /// Finished segments whose unused end can be given back: number, offset, length.
    finished: Vec<(u64, u64, u64)>,
}

enum State {
    Empty,
    /// It is being filled: its name is taken.
    Making,
    Ready(Spare),
    /// The log renames it just now: its name is not free yet.
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
            made: Condvar::new(),
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
        matches!(self.slot().state, State::Ready(_) | State::Taken)
    }

    /// Whether a spare lies there, for a rotation that nothing forces to happen now.
    #[must_use]
    pub fn in_stock(&self) -> bool {
        matches!(self.slot().state, State::Ready(_))
    }

    /// Makes a spare if there is none, and gives the ends of finished segments back. `pace` is
    /// called between pieces of 512 KiB, so that the caller can leave the disk to others; it says
    /// whether to go on.
    ///
    /// # Errors
    /// The call that failed; what was made so far is removed. Nothing but the spare is touched, so
    /// it can be tried again.
    pub fn prepare(&self, pace: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        {
            let mut slot = self.slot();
            if matches!(slot.state, State::Empty) {
                slot.state = State::Making;
            } else {
                return Ok(());
            }
        }
        let made = self.make(self.segment_bytes, PACED_BYTES, pace);
        let result = match made {
            Ok(Some(spare)) => {
                self.slot().state = State::Ready(spare);
                Ok(())
            }
            unmade => {
                // A failure here adds nothing: `.tmp` files are removed at the next start.
                let _ = self.disk.remove(SPARE_PATH);
                let _ = self.disk.remove(current::TMP_NAME);
                self.slot().state = State::Empty;
                unmade.map(drop)
            }
        };
        self.made.notify_all();
        result.and(self.give_back())
    }

    /// Gives the ends of finished segments back. [`Spares::prepare`] does it too.
    ///
    /// # Errors
    /// The call that failed; what it was for is not tried again.
    pub fn give_back(&self) -> Result<(), Error> {
        let finished = std::mem::take(&mut self.slot().finished);
        for (number, offset, length) in finished {
            // Only space is at stake: the segment is removed some day anyway.
            let path = segment_path(number);
            let file = self.disk.open_write(&path);
            match file.and_then(|mut file| file.punch(offset, length)) {
                // Compaction was here first.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("give back the end of", &path))?,
            }
        }
        Ok(())
    }

    /// Gives the zeros at the end of a segment back, which nothing will be written into any more: it reads as
    /// before. Says whether there were any.
    ///
    /// # Errors
    /// The call that failed.
    pub(crate) fn give_back_zeros(&self, number: u64) -> Result<bool, Error> {
        let path = segment_path(number);
        let mut file = match self.disk.open_write(&path) {
            // A snapshot covers it, and it is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(Error::io("open", &path))?,
        };
        let length = file.length().map_err(Error::io("look at", &path))?;
        let mut piece = vec![0; PACED_BYTES];
        let mut end = length;
        while end > 0 {
            let begin = end.saturating_sub(PACED_BYTES as u64);
            let part = usize::try_from(end - begin).unwrap_or(PACED_BYTES);
            let part = piece.get_mut(..part).unwrap_or_default();
            read_full(file.as_ref(), begin, part).map_err(Error::io("read", &path))?;
            if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
                end = (begin + last as u64 + 1).next_multiple_of(BLOCK_BYTES as u64);
                break;
            }
            end = begin;
        }
        let zeros = length.saturating_sub(end);
        if zeros > 0 {
            file.punch(end, zeros)
                .map_err(Error::io("give back the end of", &path))?;
        }
        Ok(zeros > 0)
    }

    /// Makes a spare of a given length, synced; `None` if `pace` said not to go on.
    pub(crate) fn make(
        &self,
        length: u64,
        piece_bytes: usize,
        pace: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Spare>, Error> {
        let mut file = self
            .disk
            .create(SPARE_PATH)
            .map_err(Error::io("create", SPARE_PATH))?;
        let filled = fill(file.as_mut(), length, piece_bytes, pace)
            .map_err(Error::io("fill", SPARE_PATH))?;
        if !filled {
            return Ok(None);
        }
        let name = current::TMP_NAME;
        let mut current = self.disk.create(name).map_err(Error::io("create", name))?;
        let bytes = CURRENT_BYTES as u64;
        fill(current.as_mut(), bytes, piece_bytes, &mut || true)
            .map_err(Error::io("fill", name))?;
        Ok(Some(Spare {
            file,
            current,
            length,
        }))
    }

    /// Takes the spare; [`Spares::taken`] must follow. Waits for one that is being made, and makes
    /// one on the spot if there is none.
    pub(crate) fn take(&self) -> Result<Spare, Error> {
        let making = |slot: &mut Slot| matches!(slot.state, State::Making);
        let mut slot = self
            .made
            .wait_while(self.slot(), making)
            .unwrap_or_else(PoisonError::into_inner);
        let state = std::mem::replace(&mut slot.state, State::Taken);
        drop(slot);
        match state {
            State::Ready(spare) => Ok(spare),
            State::Empty | State::Making | State::Taken => self.make_now(self.segment_bytes),
        }
    }

    /// Makes a spare of a given length without leaving the disk to anybody.
    pub(crate) fn make_now(&self, length: u64) -> Result<Spare, Error> {
        let interrupted = || Error::io("fill", SPARE_PATH)(std::io::ErrorKind::Interrupted.into());
        let made = self.make(length, HURRIED_BYTES, &mut || true);
        if made.is_err() {
            // What there is of it takes room that is missing.
            let _ = self.remove_unfinished();
        }
        made?.ok_or_else(interrupted)
    }

    /// The spare that was taken is a segment now, or given up: another one may be made.
    pub(crate) fn taken(&self, finished: Option<(u64, u64, u64)>) {
        let mut slot = self.slot();
        slot.state = State::Empty;
        slot.finished.extend(finished);
    }

    pub(crate) fn remove_unfinished(&self) -> Result<(), Error> {
        for path in UNFINISHED {
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

/// Whether it was filled to the end.
fn fill(
    file: &mut dyn File,
    length: u64,
    piece_bytes: usize,
    pace: &mut dyn FnMut() -> bool,
) -> std::io::Result<bool> {
    let zeros = vec![
        if planted("spare-not-zeroed") { 0xA5 } else { 0 };
        usize::try_from(length)
            .unwrap_or(piece_bytes)
            .min(piece_bytes)
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
        if !pace() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Directory of the spare.
pub(crate) const SPARE_DIR: &str = DIR;
