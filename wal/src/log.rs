//! Writing the log: one process, from the header of a new segment to the last seal.
//!
//! What always holds: a batch is written once, behind all others, into blocks that nothing was
//! written to before; `CURRENT` names a segment before a batch of its own is written into it; after
//! the first failed write or sync of a segment or of `CURRENT` nothing is written any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{Batch, Position, span_of_records};
use crate::cell::{BLOCK_BYTES, Flags};
use crate::current::{self, Current, CurrentState};
use crate::disk::{Disk, File, publish, write_full};
use crate::error::Error;
use crate::header::{
    DIR, FIRST_BATCH_AT, Mode, Predecessor, SegmentHeader, number_of_name, segment_path,
};
use crate::planted::{in_two, planted};
use crate::recover::{Copy, Recovered};
use crate::spare::{SPARE_DIR, SPARE_PATH, Spare, Spares};

/// The longest segment, in bytes: recovery holds one in memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The longest file that is read as a segment: the first one of a run is longer than others where what it
/// repeats was a full segment, by a few blocks with each start.
pub(crate) const SEGMENT_FILE_BYTES_MAX: u64 = 2 * SEGMENT_BYTES_MAX;

/// Bytes of a segment that a seal takes.
const SEAL_BYTES: u64 = BLOCK_BYTES as u64;
/// After an unclean run that answered before it synced, sequences go on this far ahead: more than
/// any run can have given out without a sync.
const SKIP_SEQUENCES: u64 = 1 << 32;

/// Where random bytes come from: salts and the store's id.
pub type Random = Arc<dyn Fn() -> io::Result<[u8; 16]> + Send + Sync>;

/// How a log is written.
#[derive(Clone)]
pub struct Options {
    /// Length of a segment in bytes, a multiple of 4096.
    pub segment_bytes: u64,
    /// Length of the first segment of a run, at most that of the others, a multiple of 4096: it is filled
    /// while a start waits. The largest batch fits into it.
    pub first_segment_bytes: u64,
    /// Durability of this run, noted in each segment.
    pub mode: Mode,
    /// Where random bytes come from.
    pub random: Random,
}

/// The smallest segment, in bytes, that holds a batch whose records have `records_bytes`, whatever
/// a start, quiet moments and the rotation behind it add.
#[must_use]
pub fn segment_bytes_needed(records_bytes: u64) -> u64 {
    // Header block, the skip of a start and a seal before, a seal behind.
    (FIRST_BATCH_AT + 3 * SEAL_BYTES).saturating_add(span_of_records(records_bytes))
}

/// What one batch holds: its number, sequences and chain value follow from where the log stands.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Number of records.
    pub count: u32,
    /// Store time in milliseconds since the Unix epoch.
    pub time: u64,
    /// The records, as [`crate::push_record`] made them.
    pub records: &'a [u8],
}

/// An open log.
pub struct Log {
    disk: Arc<dyn Disk>,
    spares: Arc<Spares>,
    options: Options,
    header: SegmentHeader,
    file: Box<dyn File>,
    /// Where the next batch goes.
    offset: u64,
    position: Position,
    /// The last batch that is known to be synced.
    synced: u64,
    /// Whether a batch with records was written since the last seal.
    unsealed: bool,
    /// Whether the segment holds a record: only then can it be a predecessor.
    has_records: bool,
    latched: bool,
    /// [`Log::room`] for other threads.
    room: Arc<AtomicU64>,
    buffer: Vec<u8>,
}

impl Log {
    /// Begins a store in an empty data dir, or begins again what an earlier first start did not end.
    /// `secrets` may publish files of its own before there is any data. The records are the store's
    /// first batch.
    ///
    /// # Errors
    /// The call that failed. The next start begins again.
    pub fn create(
        disk: Arc<dyn Disk>,
        options: Options,
        secrets: impl FnOnce(&dyn Disk) -> Result<(), Error>,
        first: Draft<'_>,
    ) -> Result<Self, Error> {
        let store_id =
            (options.random)().map_err(Error::io("get random bytes for", current::NAME))?;
        let creating = Current {
            state: CurrentState::Creating,
            store_id,
            segment: 0,
            salt: [0; 16],
        };
        // Before anything else, so that a crash from here on is known for what it is.
        publish(disk.as_ref(), current::NAME, &creating.encode())?;
        // What an earlier first start left. Nothing else there is ours.
        for name in disk.list(DIR).map_err(Error::io("list", DIR))? {
            if number_of_name(&name).is_some() {
                let path = format!("{DIR}/{name}");
                disk.remove(&path).map_err(Error::io("remove", &path))?;
            }
        }
        secrets(disk.as_ref())?;
        disk.create_dir(DIR).map_err(Error::io("create", DIR))?;
        disk.sync_dir("").map_err(Error::io("sync", "."))?;
        let copy = Copy {
            first_sequence: 1,
            count: first.count,
            time: first.time,
            skip: false,
            records: first.records.to_vec(),
        };
        let begin = Begin {
            store_id,
            number: 1,
            predecessor: None,
            copies: vec![copy],
            flags: Flags::default(),
            time: first.time,
        };
        Self::begin(disk, options, begin)
    }

    /// Begins the log of a store whose state lies in a snapshot that ends at `end`, in a data dir
    /// without a log. No segment before the first is there, and none is needed.
    ///
    /// # Errors
    /// The call that failed. Until the last one has succeeded there is no `CURRENT`.
    pub fn create_behind(
        disk: Arc<dyn Disk>,
        options: Options,
        store_id: [u8; 16],
        end: Predecessor,
        time: u64,
    ) -> Result<Self, Error> {
        disk.create_dir(DIR).map_err(Error::io("create", DIR))?;
        disk.sync_dir("").map_err(Error::io("sync", "."))?;
        let begin = Begin {
            store_id,
            number: end.number.saturating_add(1),
            predecessor: Some(end),
            copies: Vec::new(),
            flags: Flags::default(),
            time,
        };
        Self::begin(disk, options, begin)
    }

    /// Goes on behind a log that was read: a new segment that repeats what is doubtful. Then removes
    /// what no longer counts.
    ///
    /// # Errors
    /// The call that failed. The log on disk is as good as before; it can be read again.
    pub fn start(
        disk: Arc<dyn Disk>,
        recovered: Recovered,
        options: Options,
        time: u64,
    ) -> Result<Self, Error> {
        let mut copies = recovered.again;
        if planted("doubtful-not-repeated") {
            copies.clear();
        }
        let ran_ahead = recovered.mode != Mode::Always && !recovered.stopped;
        if ran_ahead && !planted("skip-left-out") {
            // Versions may have been shown that the disk never saw: none of them is given twice.
            let next = recovered.position.sequence.saturating_add(1);
            // Of skips one behind the other the last says all.
            copies.pop_if(|last| last.skip);
            copies.push(Copy {
                first_sequence: next.saturating_add(SKIP_SEQUENCES),
                count: 0,
                time,
                skip: true,
                records: Vec::new(),
            });
        }
        let begin = Begin {
            store_id: recovered.store_id,
            number: recovered.highest.saturating_add(1),
            predecessor: recovered.predecessor,
            copies,
            flags: Flags::AGAIN,
            time,
        };
        let predecessor = recovered.predecessor;
        let log = Self::begin(disk, options, begin)?;

        let counts = |number: u64| {
            number == log.header.number
                || number <= recovered.covered
                || predecessor
                    .is_some_and(|p| number <= p.number && recovered.chain.contains(&number))
        };
        for name in log.disk.list(DIR).map_err(Error::io("list", DIR))? {
            if number_of_name(&name).is_some_and(|number| !counts(number)) {
                // Needs no sync: a name that comes back does not count then either.
                let path = format!("{DIR}/{name}");
                log.disk.remove(&path).map_err(Error::io("remove", &path))?;
            }
        }
        if let Some(p) = predecessor {
            let path = segment_path(p.number);
            let length = match log.disk.open(&path).and_then(|file| file.length()) {
                Ok(length) => length,
                // A snapshot covers it, and it is gone: there is nothing to give back.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && p.number <= recovered.covered =>
                {
                    0
                }
                Err(error) => return Err(Error::io("look at", &path)(error)),
            };
            let unused = length.saturating_sub(p.end);
            log.spares
                .taken((unused > 0).then_some((p.number, p.end, unused)));
        }
        Ok(log)
    }

    /// Makes the first segment of this run and lets `CURRENT` name it.
    fn begin(disk: Arc<dyn Disk>, options: Options, begin: Begin) -> Result<Self, Error> {
        let spares = Arc::new(Spares::new(Arc::clone(&disk), options.segment_bytes));
        spares.remove_unfinished()?;
        let copies: u64 = begin
            .copies
            .iter()
            .map(|copy| span_of_records(copy.records.len() as u64))
            .sum();
        let length = first_segment_bytes(&options, copies);
        let mut spare = spares.make_now(length);
        if spare.as_ref().is_err_and(Error::is_for_room)
            && let Some(before) = begin.predecessor
            && spares.give_back_zeros(before.number)?
        {
            spare = spares.make_now(length);
        }
        let spare = spare?;

        let path = segment_path(begin.number);
        let salt = (options.random)().map_err(Error::io("get random bytes for", &path))?;
        let before = begin
            .predecessor
            .map_or(Position::default(), |p| p.position);
        let header = SegmentHeader {
            mode: options.mode,
            store_id: begin.store_id,
            number: begin.number,
            salt,
            length,
            first_sequence: before.sequence.saturating_add(1),
            time: begin.time,
            predecessor: begin.predecessor,
        };
        let Spare {
            mut file, current, ..
        } = spare;
        let mut offset = FIRST_BATCH_AT;
        let mut position = before;
        let mut buffer = Vec::new();
        for copy in &begin.copies {
            let batch = copy.batch(position, before.batch, begin.flags);
            buffer.clear();
            position = batch.encode(position, header.seed(), cell_of(offset), &mut buffer);
            write_full(file.as_mut(), offset, &buffer).map_err(Error::io("write", SPARE_PATH))?;
            offset += span_of_records(copy.records.len() as u64);
        }
        let has_records = begin.copies.iter().any(|copy| copy.count > 0);
        publish_segment(disk.as_ref(), file.as_mut(), current, &header)?;
        let log = Self {
            disk,
            spares,
            options,
            header,
            file,
            offset,
            synced: position.batch,
            position,
            unsealed: has_records,
            has_records,
            latched: false,
            room: Arc::default(),
            buffer,
        };
        log.publish_room();
        Ok(log)
    }

    /// Where the log stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last batch that is known to be synced.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// The segment that is written now.
    #[must_use]
    pub fn segment(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next segments come from.
    #[must_use]
    pub fn spares(&self) -> Arc<Spares> {
        Arc::clone(&self.spares)
    }

    /// Bytes of the present segment that batches can still take.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.header
            .length
            .saturating_sub(self.offset)
            .saturating_sub(SEAL_BYTES)
    }

    /// The same for other threads. It is up to date whenever [`Spares::ready`] is, so a batch that
    /// fits neither here nor, with all that is on its way, into a whole segment while a spare is
    /// ready, must wait.
    #[must_use]
    pub fn shared_room(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.room)
    }

    fn publish_room(&self) {
        self.room.store(self.room(), Ordering::SeqCst);
    }

    /// Writes one batch; it is durable after the next [`Log::sync`]. Goes on in the next segment
    /// first if it does not fit.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and nothing has happened: by [`segment_bytes_needed`] the caller can tell
    /// beforehand. Any other error latches: whether the batch will
    /// be there is unknown, and nothing is written any more.
    pub fn append(&mut self, draft: Draft<'_>) -> Result<Position, Error> {
        self.check_latch()?;
        if let Some((first, rest)) = in_two(draft) {
            self.append(first)?;
            return self.append(rest);
        }
        let span = span_of_records(draft.records.len() as u64);
        if span > self.room() {
            let whole = self.options.segment_bytes;
            if segment_bytes_needed(draft.records.len() as u64) > whole || !self.has_records {
                return Err(Error::TooLarge {
                    bytes: span,
                    segment_bytes: whole,
                });
            }
            self.latching(|log| log.rotate(draft.time))?;
        }
        self.latching(|log| log.write(draft, Flags::default()))?;
        self.unsealed = true;
        self.has_records = true;
        Ok(self.position)
    }

    /// Ends this segment and goes on in the next one, unless it holds no record yet: then the one
    /// before has ended already. Returns where that one ends; all before is synced.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn rotate_now(&mut self, time: u64) -> Result<Option<Predecessor>, Error> {
        self.check_latch()?;
        if self.has_records {
            self.latching(|log| log.rotate(time))?;
        }
        Ok(self.header.predecessor)
    }

    /// Writes `CURRENT` anew, for the one on disk is damaged. It names the present segment as before.
    ///
    /// # Errors
    /// As [`Log::append`]; but a disk that is full when the new file is made leaves nothing in doubt, for it has no
    /// name yet, and does not latch.
    pub fn renew_current(&mut self) -> Result<(), Error> {
        self.check_latch()?;
        // Not by way of the name that waits beside the spare for the next rotation.
        let tmp = current::RENEWED_TMP_NAME;
        let write = || {
            let mut file = self.disk.create(tmp).map_err(Error::io("create", tmp))?;
            write_full(file.as_mut(), 0, &self.header.named().encode())
                .map_err(Error::io("write", tmp))?;
            file.sync().map_err(Error::io("sync", tmp))
        };
        let written = write();
        if written.as_ref().is_err_and(Error::is_for_room) {
            // The next attempt makes it anew.
            let _ = self.disk.remove(tmp);
            return written;
        }
        self.latching(|log| {
            written?;
            log.disk
                .rename(tmp, current::NAME)
                .map_err(Error::io("rename", current::NAME))?;
            log.disk.sync_dir("").map_err(Error::io("sync", "."))
        })
    }

    /// Whether a call failed that left something in doubt: nothing is written any more.
    #[must_use]
    pub fn is_latched(&self) -> bool {
        self.latched
    }

    /// Makes all batches so far durable.
    ///
    /// # Errors
    /// Latches: what is durable is unknown, and syncing again would not tell.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.check_latch()?;
        self.latching(Self::sync_file)
    }

    /// Syncs all batches and writes and syncs a seal behind them, if [`Log::can_seal`].
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn seal(&mut self, time: u64) -> Result<(), Error> {
        self.check_latch()?;
        if !self.can_seal() {
            return Ok(());
        }
        let flags = if planted("quiet-seal-says-stop") {
            Flags::STOP
        } else {
            Flags::default()
        };
        self.latching(|log| log.write_seal(time, flags))
    }

    /// Whether there are batches to seal, and room for it. The room that is kept for the last seal
    /// of a segment serves as well: nothing can come behind it.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.unsealed && self.has_seal_room()
    }

    fn has_seal_room(&self) -> bool {
        self.offset.saturating_add(SEAL_BYTES) <= self.header.length
    }

    /// Ends the log in order: syncs, and seals with the mark that nothing comes behind.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn stop(mut self, time: u64) -> Result<(), Error> {
        self.check_latch()?;
        self.latching(|log| {
            log.sync_file()?;
            // In a segment that is full to the last block the mark is missing, and after a run that
            // answered before it synced the sequences then skip ahead. That is all.
            if log.has_seal_room() {
                log.write_seal(time, Flags::STOP)
            } else {
                Ok(())
            }
        })
    }

    fn check_latch(&self) -> Result<(), Error> {
        if self.latched {
            Err(Error::Latched)
        } else {
            Ok(())
        }
    }

    fn latching(&mut self, call: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let result = call(self);
        self.latched |= result.is_err() && !planted("failure-does-not-latch");
        result
    }

    fn write(&mut self, draft: Draft<'_>, flags: Flags) -> Result<(), Error> {
        let after_sync = self.synced == self.position.batch;
        let batch = Batch {
            number: self.position.batch.saturating_add(1),
            first_sequence: self.position.sequence.saturating_add(1),
            count: draft.count,
            time: draft.time,
            durable: if planted("durable-mark-too-high") {
                self.synced.saturating_add(1)
            } else {
                self.synced
            },
            flags: if after_sync {
                flags.with(Flags::AFTER_SYNC)
            } else {
                flags
            },
            records: draft.records,
        };
        self.buffer.clear();
        let seed = self.header.seed();
        let after = batch.encode(self.position, seed, cell_of(self.offset), &mut self.buffer);
        write_full(self.file.as_mut(), self.offset, &self.buffer)
            .map_err(|error| self.segment_error("write", error))?;
        self.offset += span_of_records(draft.records.len() as u64);
        self.position = after;
        self.publish_room();
        Ok(())
    }

    fn sync_file(&mut self) -> Result<(), Error> {
        if self.synced != self.position.batch {
            let mut synced = self.file.sync();
            if synced.is_err() && planted("failed-sync-retried") {
                synced = self.file.sync();
            }
            synced.map_err(|error| self.segment_error("sync", error))?;
            self.synced = self.position.batch;
        }
        Ok(())
    }

    /// What went wrong with the present segment; its path is made only then.
    fn segment_error(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::io(operation, &segment_path(self.header.number))(source)
    }

    /// The caller has synced all before, so the seal says *after-sync*.
    fn write_seal(&mut self, time: u64, flags: Flags) -> Result<(), Error> {
        let draft = Draft {
            count: 0,
            time,
            records: &[],
        };
        self.sync_file()?;
        self.write(draft, flags.with(Flags::SEAL))?;
        self.sync_file()?;
        self.unsealed = false;
        Ok(())
    }

    /// Seals this segment and goes on in the spare.
    fn rotate(&mut self, time: u64) -> Result<(), Error> {
        if !planted("rotation-leaves-unsynced") {
            self.sync_file()?;
            if self.unsealed {
                self.write_seal(time, Flags::default())?;
            }
        }
        let spare = self.spares.take()?;
        let number = self.header.number.saturating_add(1);
        let path = segment_path(number);
        let header = SegmentHeader {
            number,
            salt: (self.options.random)().map_err(Error::io("get random bytes for", &path))?,
            length: spare.length,
            first_sequence: self.position.sequence.saturating_add(1),
            time,
            predecessor: Some(Predecessor {
                number: self.header.number,
                salt: self.header.salt,
                end: self.offset,
                position: self.position,
            }),
            ..self.header
        };
        let Spare {
            mut file, current, ..
        } = spare;
        publish_segment(self.disk.as_ref(), file.as_mut(), current, &header)?;
        let unused = self.header.length.saturating_sub(self.offset);
        let finished = (unused > 0).then_some((self.header.number, self.offset, unused));
        self.header = header;
        self.file = file;
        self.offset = FIRST_BATCH_AT;
        self.unsealed = false;
        self.has_records = false;
        // In this order: while the spare counts as ready the room may still be the old one.
        self.publish_room();
        self.spares.taken(finished);
        Ok(())
    }
}

/// Length of the first segment of a run: as long as what it repeats, in so many bytes, needs.
fn first_segment_bytes(options: &Options, copies: u64) -> u64 {
    options
        .first_segment_bytes
        .min(options.segment_bytes)
        .max((FIRST_BATCH_AT + 3 * SEAL_BYTES).saturating_add(copies))
}

/// What the first segment of a run holds.
struct Begin {
    store_id: [u8; 16],
    number: u64,
    predecessor: Option<Predecessor>,
    copies: Vec<Copy>,
    flags: Flags,
    time: u64,
}

/// Turns a spare, with what it holds, into the segment that `CURRENT` names.
fn publish_segment(
    disk: &dyn Disk,
    file: &mut dyn File,
    mut current: Box<dyn File>,
    header: &SegmentHeader,
) -> Result<(), Error> {
    let path = segment_path(header.number);
    write_full(file, 0, &header.encode()).map_err(Error::io("write", SPARE_PATH))?;
    if !planted("segment-named-unsynced") {
        file.sync().map_err(Error::io("sync", SPARE_PATH))?;
    }
    disk.rename(SPARE_PATH, &path)
        .map_err(Error::io("rename", &path))?;
    if !planted("segment-name-unsynced") {
        disk.sync_dir(SPARE_DIR)
            .map_err(Error::io("sync", SPARE_DIR))?;
    }

    let names = header.named();
    let tmp = current::TMP_NAME;
    write_full(current.as_mut(), 0, &names.encode()).map_err(Error::io("write", tmp))?;
    if !planted("current-named-unsynced") {
        current.sync().map_err(Error::io("sync", tmp))?;
    }
    disk.rename(tmp, current::NAME)
        .map_err(Error::io("rename", current::NAME))?;
    if planted("current-name-unsynced") {
        return Ok(());
    }
    disk.sync_dir("").map_err(Error::io("sync", "."))
}

fn cell_of(offset: u64) -> u64 {
    offset / crate::cell::CELL_BYTES as u64
}

impl SegmentHeader {
    /// The `CURRENT` that names this segment.
    fn named(&self) -> Current {
        Current {
            state: CurrentState::Live,
            store_id: self.store_id,
            segment: self.number,
            salt: self.salt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_segment_that_repeats_the_longest_one_is_read_again() {
        let options = Options {
            segment_bytes: SEGMENT_BYTES_MAX,
            first_segment_bytes: SEGMENT_BYTES_MAX / 2,
            mode: Mode::Os,
            random: Arc::new(|| Ok([0; 16])),
        };
        // Each start finds the segment of the one before full to the last block.
        let mut length = SEGMENT_BYTES_MAX;
        for _ in 0..1_000 {
            let copies = length - FIRST_BATCH_AT + SEAL_BYTES;
            length = first_segment_bytes(&options, copies);
            assert!(length > SEGMENT_BYTES_MAX && length <= SEGMENT_FILE_BYTES_MAX);
        }
    }
}
