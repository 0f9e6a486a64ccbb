//! Recovery: the newest snapshot that is whole, and the log behind it, into a state.
//!
//! What always holds:
//! - Nothing is changed, made or removed here; reading the same files again gives the same result.
//! - What is returned holds every change that was acknowledged. If that cannot be had, the start is
//!   refused, with file, offset and what would be lost.
//!
//! | found | what follows |
//! | --- | --- |
//! | the newest snapshot is whole | it and the log behind it; older files are not needed |
//! | it is damaged, the one before is whole | that one and the log behind it; the damaged one is to be set aside |
//! | no snapshot is whole | the log from its beginning, if it is there; else refuse |
//! | a snapshot of another store, or of a newer format | refuse |
//! | the log behind the snapshot is damaged beyond repair | refuse |

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ekokv_wal::{CurrentState, Damage, Disk, Error, Found, Recovered, sealed_chain};

use super::compactor::{Generation, Generations};
use super::open::OTHER_FILES;
use super::replay::replay;
use super::snapshot::{self, Bad, DIR, Scan, load, sequence_of_name};
use crate::state::State;

/// So often a start that takes long says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// What a data dir holds.
pub(super) enum Loaded {
    /// Nothing of ekokv, or a first start that did not end.
    Nothing,
    /// A store.
    Store(Box<LoadedStore>),
}

/// A store that was read.
pub(super) struct LoadedStore {
    pub(super) state: State,
    pub(super) log: Recovered,
    /// Newest store time in milliseconds since the Unix epoch.
    pub(super) time: u64,
    pub(super) generations: Generations,
    /// Length of the snapshot that was read, 0 if none was.
    pub(super) snapshot_bytes: u64,
    /// Snapshots that are damaged: nothing needs them.
    pub(super) broken: Vec<Damage>,
    /// Why the older generation could not be fallen back on, if there is one.
    pub(super) older_unusable: Option<Error>,
}

/// Reads a data dir. `begin` makes the state that all is read into.
///
/// # Errors
/// [`Error::Damaged`] if acknowledged data may be lost, [`Error::Unreadable`] if the disk does not hand
/// over what is needed.
pub(super) fn read(disk: &dyn Disk, retention_ms: u64) -> Result<Loaded, Error> {
    let store_id = match ekokv_wal::current(disk, OTHER_FILES)? {
        None => return Ok(Loaded::Nothing),
        Some((current, _)) if current.state == CurrentState::Creating => {
            return Ok(Loaded::Nothing);
        }
        Some((current, _)) => current.store_id,
    };
    let mut candidates = snapshot_names(disk)?.into_iter().rev();
    let mut broken = Vec::new();
    let mut base = None;
    for sequence in candidates.by_ref() {
        let path = snapshot::path_of(sequence);
        let progress = Progress::new("snapshot");
        let loaded = load(disk, &path, store_id, retention_ms, &|done, all| {
            progress.show(done, all);
        });
        match loaded.and_then(|found| named_as_it_is(&path, sequence, found)) {
            Ok(found) => {
                base = Some(found);
                break;
            }
            Err(Bad::Damaged(damage)) => broken.push(damage),
            Err(bad @ (Bad::Foreign(_) | Bad::Passing(..))) => return Err(bad.into()),
        }
    }
    let (mut state, newest) = match base {
        Some((header, footer, state)) => (state, Some((header, footer.length))),
        None => (State::new(retention_ms), None),
    };
    let end = newest.map(|(header, _)| header.end);
    let log = match replay(disk, end.as_ref(), &mut state) {
        Ok(Found::Log(log)) => *log,
        // `CURRENT` has just said otherwise.
        Ok(Found::Nothing | Found::Creating) => return Ok(Loaded::Nothing),
        Err(error) => return Err(with_broken(error, &broken)),
    };
    let mut generations = Vec::new();
    let mut older_unusable = None;
    if let Some((header, bytes)) = newest {
        generations.push(Generation {
            end: header.end,
            bytes,
        });
        if let Some(sequence) = candidates.next() {
            match older(disk, store_id, sequence, &header.end) {
                Ok(older) => generations.push(older),
                Err(error) => older_unusable = Some(error),
            }
        }
    }
    let time = newest.map_or(0, |(header, _)| header.time).max(log.time);
    Ok(Loaded::Store(Box::new(LoadedStore {
        state,
        time,
        log,
        generations: Generations::new(generations),
        snapshot_bytes: newest.map_or(0, |(_, bytes)| bytes),
        broken,
        older_unusable,
    })))
}

/// Last sequences of the snapshots that are there, ascending.
pub(super) fn snapshot_names(disk: &dyn Disk) -> Result<Vec<u64>, Error> {
    let names = disk.list(DIR).map_err(|source| Error::Unreadable {
        file: DIR.to_owned(),
        offset: 0,
        source,
    })?;
    let mut sequences: Vec<u64> = names
        .iter()
        .filter_map(|name| sequence_of_name(name))
        .collect();
    sequences.sort_unstable();
    Ok(sequences)
}

type Whole = (snapshot::Header, snapshot::Footer, State);

fn named_as_it_is(path: &str, sequence: u64, found: Whole) -> Result<Whole, Bad> {
    check_name(path, sequence, &found.0)?;
    Ok(found)
}

fn check_name(path: &str, sequence: u64, header: &snapshot::Header) -> Result<(), Bad> {
    let last = header.end.position.sequence;
    if last == sequence {
        Ok(())
    } else {
        Err(Bad::foreign(
            path,
            format!("it is the snapshot of sequence {last} by another name"),
        ))
    }
}

/// Whether the generation before the newest could serve: its file and the headers of its log are there.
/// The scrub looks at the rest.
fn older(
    disk: &dyn Disk,
    store_id: [u8; 16],
    sequence: u64,
    newest: &ekokv_wal::Predecessor,
) -> Result<Generation, Error> {
    let path = snapshot::path_of(sequence);
    let scan = Scan::open(disk, &path)?;
    check_name(&path, sequence, scan.header())?;
    let end = scan.header().end;
    sealed_chain(disk, store_id, Some(&end), newest)?;
    Ok(Generation {
        end,
        bytes: scan.footer().length,
    })
}

/// An error of the log that a damaged snapshot made necessary to read names that one too.
fn with_broken(error: Error, broken: &[Damage]) -> Error {
    match error {
        Error::Damaged(mut damage) => {
            for snapshot in broken {
                damage.reason = format!("{}; and {snapshot}", damage.reason);
            }
            Error::Damaged(damage)
        }
        other => other,
    }
}

/// Says now and then how far a long start is.
pub(super) struct Progress {
    what: &'static str,
    said: Mutex<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            said: Mutex::new(Instant::now()),
        }
    }

    fn is_due(&self) -> bool {
        let mut said = self
            .said
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = said.elapsed() >= PROGRESS;
        if due {
            *said = Instant::now();
        }
        due
    }

    fn show(&self, done: u64, all: u64) {
        if self.is_due() {
            let percent = done.saturating_mul(100) / all.max(1);
            tracing::info!(reading = self.what, percent, bytes = done, "loading");
        }
    }

    pub(super) fn show_place(&self, file: &str, offset: u64) {
        if self.is_due() {
            tracing::info!(reading = self.what, file, offset, "loading");
        }
    }
}
