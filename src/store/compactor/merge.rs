//! The k-way merge: a snapshot, or the live state in slices, and the runs behind it, into a new
//! snapshot.
//!
//! What always holds: each key goes through its mutations by [`Lone`], that is by the state's own
//! `apply`; a mutation that the base has seen already is not applied again.

use ekokv_wal::{Error, planted};

use super::runs::Run;
use crate::state::{Kept, Key, Lone, Mutation, Recorded};
use crate::store::snapshot::Writer;

/// Keys in ascending order, as they were at one time or another, each whole.
pub(super) trait Base {
    /// The next key.
    ///
    /// # Errors
    /// What keeps it from being read.
    fn next(&mut self) -> Result<Option<Recorded>, Error>;
}

/// No keys.
pub(super) struct Nothing;

impl Base for Nothing {
    fn next(&mut self) -> Result<Option<Recorded>, Error> {
        Ok(None)
    }
}

/// What ends a merge early.
#[derive(Debug)]
pub(super) enum Ended {
    /// Reading or writing failed.
    Failed(Error),
    /// Whoever paced it said so.
    Stopped,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Merges `base` with `runs` into `writer`; keys of the base that were last changed before `cleared_at`
/// are gone. `pace` is told of the bytes that went through and says whether to go on.
pub(super) fn merge(
    base: &mut dyn Base,
    runs: &mut [Run],
    cleared_at: u64,
    writer: &mut Writer,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Ended> {
    let mut lone = Lone::default();
    let mut from_base = base.next()?;
    loop {
        let Some(key) = first_key(from_base.as_ref(), runs) else {
            return Ok(());
        };
        let mut recorded = None;
        if from_base.as_ref().is_some_and(|base| base.key == key) {
            recorded = std::mem::replace(&mut from_base, base.next()?);
        }
        let recorded = recorded.filter(|recorded| {
            recorded.kept.version() > cleared_at || planted("cleared-is-revived")
        });
        let seen = recorded.as_ref().map_or(0, |r| r.kept.version());
        let changed = runs.iter().any(|run| stands_at(run, &key));
        let kept = if changed {
            lone.begin(&key, recorded);
            // In the order of the runs, which is that of their sequences.
            for run in runs.iter_mut() {
                while stands_at(run, &key) {
                    if let Some(logged) = run.peek()
                        && logged.sequence > seen
                        && (seen == 0 || !planted("known-keys-not-changed"))
                    {
                        let mutation = Mutation::decode(logged.bytes).map_err(unread)?;
                        lone.apply(logged.sequence, &mutation, logged.crc);
                    }
                    run.advance()?;
                }
            }
            lone.end()
        } else {
            recorded
        };
        let mut bytes = key.len();
        if let Some(kept) = &kept {
            if let Kept::Live(entry) = &kept.kept {
                bytes += entry.value.len();
            }
            writer.push(kept)?;
        }
        if !pace(bytes as u64) {
            return Err(Ended::Stopped);
        }
    }
}

/// The first key of all.
pub(super) fn first_key(base: Option<&Recorded>, runs: &[Run]) -> Option<Key> {
    let of_runs = runs.iter().filter_map(|run| run.peek().map(|l| l.key));
    let of_base = base.map(|recorded| &*recorded.key);
    of_runs.chain(of_base).min().map(Key::from)
}

/// Whether a run is at `key`.
pub(super) fn stands_at(run: &Run, key: &str) -> bool {
    run.peek().is_some_and(|logged| logged.key == key)
}

/// A mutation that was read before cannot be read any more.
fn unread(error: crate::state::DecodeError) -> Error {
    let invalid = std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
    Error::io("read", "a run")(invalid)
}
