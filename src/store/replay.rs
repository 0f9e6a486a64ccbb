//! The log behind a snapshot, read on one thread and made so on another.
//!
//! Reading, checksums and the chain take about as long as applying, and neither needs to wait for the
//! other. What the log says is decoded where its place is known, so that damage is refused with file and
//! offset; applying it cannot fail. It is applied in stretches that are sorted by their keys.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use ekokv_wal::{Batch, Disk, Error, Found, Predecessor, Records};

use super::open::OTHER_FILES;
use super::recovery::Progress;
use crate::state::{Changes, Mutation, State};

/// What is sorted together, in bytes of records: the more, the more changes share the way to a leaf. Up
/// to three times as much is in memory at once.
const STRETCH_BYTES_MAX: usize = 16 << 20;
/// The first stretch is shorter, each other twice as long as the one before: nobody waits for the first
/// one, and while there are few leaves few changes share many.
const STRETCH_BYTES_FIRST: usize = 256 << 10;

/// Batches that were read and not sorted yet.
#[derive(Default)]
struct Stretch {
    /// First sequence, count, and bytes of records.
    batches: Vec<(u64, u32, usize)>,
    records: Vec<u8>,
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
    let (sorted, stretches) = sync_channel::<Changes>(0);
    thread::scope(|scope| {
        let applying = thread::Builder::new()
            .name("replay".to_owned())
            .spawn_scoped(scope, move || {
                stretches
                    .iter()
                    .try_for_each(|changes| changes.apply(state))
            })
            .map_err(cannot("start a thread to read"))?;
        let mut stretch = Stretch::default();
        let mut stretch_bytes = STRETCH_BYTES_FIRST;
        // It is gone only if it failed or panicked, which is told below.
        let hand_over = |changes| sorted.send(changes).map_err(|_| "applying it failed");
        let found = ekokv_wal::read(disk, OTHER_FILES, from, &mut |path, offset, batch| {
            for record in batch.records() {
                Mutation::decode(record?.bytes).map_err(|error| error.to_string())?;
            }
            stretch.push(batch);
            if stretch.records.len() >= stretch_bytes {
                hand_over(stretch.sort()?)?;
                stretch.clear();
                stretch_bytes = STRETCH_BYTES_MAX.min(2 * stretch_bytes);
            }
            progress.show_place(path, offset);
            Ok(())
        });
        let found = found.and_then(|found| {
            let last = stretch.sort().map_err(defect)?;
            hand_over(last).map_err(defect)?;
            Ok(found)
        });
        drop(sorted);
        match applying.join() {
            Ok(applied) => applied.map_err(defect).and(found),
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

/// The same bytes were read before and were in order: the start must not go on without what it left out.
fn defect(reason: impl ToString) -> Error {
    cannot("apply")(io::Error::other(reason.to_string()))
}

impl Stretch {
    fn push(&mut self, batch: &Batch<'_>) {
        self.batches
            .push((batch.first_sequence, batch.count, batch.records.len()));
        self.records.extend_from_slice(batch.records);
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.records.clear();
    }

    fn sort(&self) -> Result<Changes, String> {
        let mut mutations = Vec::new();
        let mut rest = self.records.as_slice();
        for (first_sequence, count, records_bytes) in &self.batches {
            let (records, behind) = rest
                .split_at_checked(*records_bytes)
                .ok_or("a batch is cut short")?;
            rest = behind;
            for (sequence, record) in (*first_sequence..).zip(Records::new(records, *count)) {
                mutations.push((sequence, record?.bytes));
            }
        }
        Changes::sorted(mutations).map_err(|error| error.to_string())
    }
}
