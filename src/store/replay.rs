//! The log behind a snapshot, read on one thread and made so on another.
//!
//! Reading, checksums and the chain take about as long as applying, and neither needs to wait for the
//! other. What the log says is decoded where its place is known, so that damage is refused with file and
//! offset; applying it cannot fail.

use std::io;
use std::mem;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use ekokv_wal::{Batch, Disk, Error, Found, Predecessor, Records, planted};

use super::open::OTHER_FILES;
use super::recovery::Progress;
use crate::clock::{Clock, SystemClock};
use crate::state::{Mutation, State};

/// Records are handed over in stretches of about so many bytes.
const STRETCH_BYTES: usize = 256 << 10;
/// So many stretches may wait.
const STRETCHES_AHEAD: usize = 8;

/// Batches that were read and not applied yet.
#[derive(Default)]
struct Stretch {
    batches: Vec<Part>,
    records: Vec<u8>,
}

/// One batch of a stretch.
struct Part {
    first_sequence: u64,
    count: u32,
    /// Store time in milliseconds since the Unix epoch.
    time: u64,
    records_bytes: usize,
}

/// Reads the log behind `from` into `state`.
///
/// # Errors
/// As [`ekokv_wal::read`].
pub(super) fn replay(
    disk: &dyn Disk,
    from: Option<&Predecessor>,
    state: &mut State,
) -> Result<Found, Error> {
    let progress = Progress::new("log");
    let (full, stretches) = sync_channel(STRETCHES_AHEAD);
    thread::scope(|scope| {
        let applying = thread::Builder::new()
            .name("replay".to_owned())
            .spawn_scoped(scope, move || apply_all(&stretches, state))
            .map_err(cannot("start a thread to read"))?;
        let mut stretch = Stretch::default();
        let found = ekokv_wal::read(disk, OTHER_FILES, from, &mut |path, offset, batch| {
            for record in batch.records() {
                Mutation::decode(record?.bytes).map_err(|error| error.to_string())?;
            }
            stretch.push(batch);
            if stretch.records.len() >= STRETCH_BYTES {
                // It is gone only if it panicked, which is passed on below.
                full.send(mem::take(&mut stretch))
                    .map_err(|_| "applying it panicked")?;
            }
            progress.show_place(path, offset);
            Ok(())
        });
        let _ = full.send(stretch);
        drop(full);
        match applying.join() {
            Ok(applied) => found.and_then(|found| applied.map(|()| found)),
            Err(panic) => resume_unwind(panic),
        }
    })
}

fn cannot(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io {
        operation,
        path: "wal".to_owned(),
        source,
    }
}

impl Stretch {
    fn push(&mut self, batch: &Batch<'_>) {
        self.batches.push(Part {
            first_sequence: batch.first_sequence,
            count: batch.count,
            time: batch.time,
            records_bytes: batch.records.len(),
        });
        self.records.extend_from_slice(batch.records);
    }
}

/// Both threads see the same bytes, so an error here is a defect: the start must not go on without what it
/// left out.
fn apply_all(stretches: &Receiver<Stretch>, state: &mut State) -> Result<(), Error> {
    let defect = |reason: String| cannot("apply")(io::Error::other(reason));
    for Stretch { batches, records } in stretches {
        let mut rest = records.as_slice();
        for part in batches {
            let (records, behind) = rest
                .split_at_checked(part.records_bytes)
                .ok_or_else(|| defect("a batch is cut short".to_owned()))?;
            rest = behind;
            let sequences = part.first_sequence..;
            for (sequence, record) in sequences.zip(Records::new(records, part.count)) {
                let record = record.map_err(|error| defect(error.to_owned()))?;
                let mut mutation =
                    Mutation::decode(record.bytes).map_err(|error| defect(error.to_string()))?;
                if planted("relative-ttl")
                    && let Mutation::Put {
                        deadline: Some(at), ..
                    } = &mut mutation
                {
                    *at = at
                        .saturating_sub(part.time)
                        .saturating_add(SystemClock.now_ms());
                }
                // What a clear frees is dropped here: nobody waits yet.
                let _ = state.apply(sequence, &mutation);
                state.released(sequence);
            }
        }
    }
    Ok(())
}
