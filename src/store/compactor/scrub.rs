//! The scrub: reads sealed files at a gentle rate, so that damage is found while the state is whole in
//! memory, and not by the start that would need the file.

use std::time::{Duration, Instant};

use ekokv_wal::{Error, Predecessor, newest_sealed, read_sealed, sealed_chain, segment_path};

use super::build::Trouble;
use super::pace::Pace;
use super::{Compactor, try_set_aside};
use crate::store::snapshot::verify;

/// How sealed files are looked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// Between the end of one round and the next.
    pub pause: Duration,
    /// At most so many bytes a second are read.
    pub bytes_per_second: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(24 * 3600),
            bytes_per_second: 8 << 20,
        }
    }
}

/// What is looked over in one go.
#[derive(Debug, Clone)]
enum Part {
    /// A snapshot; the newest one if no generation stands before it.
    Snapshot { path: String, newest: bool },
    /// Sealed segments between two places.
    Log {
        store_id: [u8; 16],
        from: Option<Predecessor>,
        to: Predecessor,
        /// A start would read them.
        needed: bool,
    },
}

/// What a look at a part comes to.
enum Seen {
    Whole,
    /// Rebuilt from parity: nothing is lost, and it should not stay so.
    Repaired,
    /// Others want the compactor.
    Interrupted,
    Damaged(Error),
}

impl Seen {
    /// What an error of reading says.
    fn of(error: Error) -> Self {
        match Trouble::from(error) {
            Trouble::Damage(error) => Self::Damaged(error),
            // Not the file's fault: another round will tell.
            Trouble::Storage(_) | Trouble::Stopping => Self::Interrupted,
        }
    }
}

/// Rounds of scrubbing.
pub(super) struct Scrubber {
    settings: Scrub,
    /// What is left of the round, last part first.
    round: Vec<Part>,
    next_round: Instant,
}

impl Scrubber {
    pub(super) fn new(settings: Scrub) -> Self {
        Self {
            settings,
            round: Vec::new(),
            next_round: Instant::now() + settings.pause,
        }
    }

    /// Looks a part over, if it is time.
    pub(super) fn step(&mut self, compactor: &mut Compactor) {
        if self.round.is_empty() {
            if Instant::now() < self.next_round {
                return;
            }
            look_at_current(compactor);
            self.round = parts(compactor);
            self.round.reverse();
        }
        if let Some(part) = self.round.pop() {
            match self.look(compactor, &part) {
                // Files may have come and gone meanwhile: the round begins again.
                Seen::Interrupted => self.round.clear(),
                Seen::Whole => {}
                Seen::Repaired => {
                    if matches!(part, Part::Log { needed: true, .. }) {
                        tracing::warn!("the scrub met damage that parity repairs; compacting");
                        compactor.repair = true;
                    }
                }
                Seen::Damaged(error) => {
                    self.round.clear();
                    found(compactor, &part, error);
                }
            }
        }
        if self.round.is_empty() {
            self.next_round = Instant::now() + self.settings.pause;
        }
    }

    fn look(&self, compactor: &Compactor, part: &Part) -> Seen {
        let started = Instant::now();
        let mut bytes = 0;
        let rate = self.settings.bytes_per_second.max(1);
        let mut pace = |more: u64| {
            bytes += more;
            let ahead = Duration::from_secs_f64(bytes as f64 / rate as f64)
                .saturating_sub(started.elapsed());
            if ahead > Duration::from_millis(1) {
                std::thread::sleep(ahead.min(Duration::from_millis(100)));
            }
            !compactor.shared.desk.is_busy()
        };
        match part {
            Part::Snapshot { path, .. } => match verify(&compactor.disk, path, &mut pace) {
                Ok(Some(_)) => Seen::Whole,
                Ok(None) => Seen::Interrupted,
                Err(bad) => Seen::of(bad.into()),
            },
            Part::Log {
                store_id, from, to, ..
            } => {
                uncache(compactor, *store_id, from.as_ref(), to);
                let mut interrupted = false;
                let read = read_sealed(
                    compactor.disk.as_ref(),
                    *store_id,
                    from.as_ref(),
                    to,
                    &mut |_, _, batch| {
                        interrupted |= !pace(batch.records.len() as u64);
                        if interrupted {
                            Err("interrupted".to_owned())
                        } else {
                            Ok(())
                        }
                    },
                );
                match read {
                    _ if interrupted => Seen::Interrupted,
                    Ok(repairs) if repairs.is_empty() => Seen::Whole,
                    Ok(_) => Seen::Repaired,
                    Err(error) => Seen::of(error),
                }
            }
        }
    }
}

/// Asks the system to forget sealed segments: what lies in memory says nothing about the disk.
fn uncache(
    compactor: &Compactor,
    store_id: [u8; 16],
    from: Option<&Predecessor>,
    to: &Predecessor,
) {
    let disk = compactor.disk.as_ref();
    // What is wrong with them, reading them will tell.
    for header in sealed_chain(disk, store_id, from, to).unwrap_or_default() {
        if let Ok(file) = disk.open(&segment_path(header.number)) {
            file.uncache();
        }
    }
}

/// `CURRENT` has two copies. If one or both are lost, the next segment's takes its place.
fn look_at_current(compactor: &mut Compactor) {
    let lost = match ekokv_wal::current(compactor.disk.as_ref(), &[]) {
        Ok(Some((_, one_copy))) => one_copy,
        Ok(None) | Err(Error::Damaged(_)) => true,
        Err(_) => false,
    };
    if lost {
        tracing::error!("CURRENT is damaged; it is written anew");
        // A segment without a record cannot be ended; then a later round tries again.
        if compactor.rotate().is_err() {
            tracing::warn!("CURRENT could not be written anew; it is tried again");
        }
    }
}

/// What there is to look at, what a start needs first.
fn parts(compactor: &Compactor) -> Vec<Part> {
    let store_id = compactor.store_id;
    let generations = &compactor.generations;
    let newest = generations.newest();
    let snapshot = |path: String, newest| Part::Snapshot { path, newest };
    let mut parts: Vec<Part> = newest
        .map(|newest| snapshot(newest.path(), true))
        .into_iter()
        .collect();
    let log = |from: Option<Predecessor>, to: Predecessor, needed| Part::Log {
        store_id,
        from,
        to,
        needed,
    };
    // A read error here is met again by whoever reads the log in earnest.
    if let Ok(Some(to)) = newest_sealed(compactor.disk.as_ref()) {
        parts.push(log(newest.map(|newest| newest.end), to, true));
    }
    if let (Some(newest), Some(older)) = (newest, generations.older()) {
        parts.push(snapshot(older.path(), false));
        parts.push(log(Some(older.end), newest.end, false));
    }
    parts
}

/// Does what damage asks for.
fn found(compactor: &mut Compactor, part: &Part, error: Error) {
    let needed = match part {
        Part::Snapshot { newest, .. } => *newest,
        Part::Log { needed, .. } => *needed,
    };
    if needed {
        let shared = std::sync::Arc::clone(&compactor.shared);
        let mut pace = Pace::gentle(&shared);
        compactor.note(|compactor| compactor.rescue(error, &mut pace));
    } else {
        tracing::error!(
            %error,
            "damage in the older generation, which only served to fall back on; it is given up"
        );
        try_set_aside(&compactor.disk, &error);
        compactor.retire(true);
    }
}

impl Compactor {
    /// Does something and keeps the books about how it went.
    fn note(&mut self, work: impl FnOnce(&mut Self) -> Result<u64, Trouble>) {
        let outcome = work(self);
        // Logged there; nobody waits for it.
        let _ = self.account(outcome);
    }
}
