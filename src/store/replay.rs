//! The log behind a snapshot, read on one thread and made so on another.
//!
//! Reading, checksums and the chain take about as long as applying, and neither needs to wait for the
//! other. What the log says is decoded where its place is known, so that damage is refused with file and
//! offset; applying it cannot fail. It is applied in stretches that are sorted by their keys.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use ekokv_wal::{Batch, Disk, Error, Found, Predecessor, planted};

use super::open::OTHER_FILES;
use super::recovery::Progress;
use crate::clock::{Clock, SystemClock};
use crate::state::{Changes, DecodeError, Mutation, State};

/// What is sorted together.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The first stretch is short, each other up to twice as long as the one before: nobody waits for the
    /// first one, and while there are few leaves few changes share many.
    first: usize,
    /// The more changes there are, the more share the way to a leaf.
    changes: usize,
    /// In bytes. One stretch is gathered, one waits in the order in which it is made so, one is made so.
    bytes: usize,
}

const LIMITS: Limits = Limits {
    first: 2 << 10,
    changes: 320 << 10,
    bytes: 28 << 20,
};

/// Mutations that were read and not sorted yet.
#[derive(Default)]
struct Stretch {
    bytes: Vec<u8>,
    /// Sequence and length of each.
    parts: Vec<(u64, usize)>,
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
    replay_in(LIMITS, disk, from, state)
}

fn replay_in(
    limits: Limits,
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
        let mut changes_max = limits.first;
        let hand_over = |stretch: &Stretch| {
            let changes = stretch.sorted().map_err(|error| error.to_string())?;
            // It is gone only if it failed or panicked, which is told below.
            sorted
                .send(changes)
                .map_err(|_| "applying it failed".to_owned())
        };
        let found = ekokv_wal::read(disk, OTHER_FILES, from, &mut |path, offset, batch| {
            stretch.push(batch)?;
            if stretch.parts.len() >= changes_max || stretch.bytes.len() >= limits.bytes {
                hand_over(&stretch)?;
                stretch.clear();
                changes_max = limits.changes.min(changes_max.saturating_mul(2));
            }
            progress.show_place(path, offset);
            Ok(())
        });
        let found = found.and_then(|found| {
            hand_over(&stretch).map_err(defect)?;
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

/// The same bytes were in order when they were read: the start must not go on without what it left out.
fn defect(reason: impl ToString) -> Error {
    cannot("apply")(io::Error::other(reason.to_string()))
}

impl Stretch {
    /// Appends the mutations of a batch, each of which must be one.
    fn push(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        for (sequence, record) in (batch.first_sequence..).zip(batch.records()) {
            let bytes = record?.bytes;
            let mutation = Mutation::decode(bytes).map_err(|error| error.to_string())?;
            let before = self.bytes.len();
            if planted("relative-ttl") {
                from_now(mutation, batch.time).encode(&mut self.bytes);
            } else {
                self.bytes.extend_from_slice(bytes);
            }
            self.parts.push((sequence, self.bytes.len() - before));
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    fn sorted(&self) -> Result<Changes, DecodeError> {
        let mut rest = self.bytes.as_slice();
        let mutations = self.parts.iter().map(|(sequence, length)| {
            let (mutation, behind) = rest.split_at_checked(*length).unwrap_or_default();
            rest = behind;
            (*sequence, mutation)
        });
        Changes::sorted(mutations, self.bytes.len())
    }
}

/// A planted bug: a deadline is counted from the start on.
fn from_now(mut mutation: Mutation<'_>, time: u64) -> Mutation<'_> {
    if let Mutation::Put {
        deadline: Some(at), ..
    } = &mut mutation
    {
        *at = at.saturating_sub(time).saturating_add(SystemClock.now_ms());
    }
    mutation
}

#[cfg(test)]
mod tests;
