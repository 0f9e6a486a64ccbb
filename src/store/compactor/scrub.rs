//! The scrub: reads sealed files at a gentle rate, so that damage is found while the state is whole in
//! memory, and not by the start that would need the file.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekokv_wal::{Error, Predecessor, newest_sealed, read_sealed, sealed_chain, segment_path};

use super::build::Trouble;
use super::pace::Pace;
use super::{Compactor, LOOK, try_set_aside};
use crate::store::snapshot::verify;

/// The first round begins so long after a start: one that is restarted each night has rounds too.
const FIRST_ROUND: Duration = Duration::from_secs(3600);
/// A round that was interrupted goes on after so long.
const INTERRUPTED_PAUSE: Duration = Duration::from_secs(60);
/// `CURRENT` is small, and no start goes without it.
const CURRENT_PAUSE: Duration = Duration::from_secs(60);

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

impl Part {
    /// What it is known by within a round.
    fn name(&self) -> String {
        match self {
            Self::Snapshot { path, .. } => path.clone(),
            // Not by its end: under writes that moves on, and the parts behind would never have a turn.
            Self::Log { from, .. } => format!("log {}", from.map_or(0, |from| from.number)),
        }
    }
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

/// Rounds of scrubbing. A round looks at each part that there is; what it has seen whole it does not look
/// at again, though compactions come between.
pub(super) struct Scrubber {
    settings: Scrub,
    /// Whether a round has begun.
    in_round: bool,
    /// The parts that this round has seen.
    seen: BTreeSet<String>,
    /// Nothing is looked at before.
    not_before: Instant,
    next_look_at_current: Instant,
}

impl Scrubber {
    pub(super) fn new(settings: Scrub) -> Self {
        let now = Instant::now();
        Self {
            settings,
            in_round: false,
            seen: BTreeSet::new(),
            not_before: now + settings.pause.min(FIRST_ROUND),
            next_look_at_current: now + settings.pause.min(CURRENT_PAUSE),
        }
    }

    /// Looks a part over, if it is time.
    pub(super) fn step(&mut self, compactor: &mut Compactor) {
        if Instant::now() >= self.next_look_at_current {
            self.next_look_at_current = Instant::now() + self.settings.pause.min(CURRENT_PAUSE);
            look_at_current(compactor);
        }
        if Instant::now() < self.not_before {
            return;
        }
        // Made anew each time: what a compaction has removed since is no part any more.
        let mut parts = parts(compactor).into_iter();
        let Some(part) = parts.find(|part| !self.seen.contains(&part.name())) else {
            if self.in_round {
                tracing::debug!(parts = self.seen.len(), "all sealed files were looked over");
            }
            self.seen.clear();
            self.in_round = false;
            self.not_before = Instant::now() + self.settings.pause;
            return;
        };
        self.in_round = true;
        match self.look(compactor, &part) {
            Seen::Interrupted => {
                self.not_before = Instant::now() + self.settings.pause.min(INTERRUPTED_PAUSE);
            }
            Seen::Whole => {
                self.seen.insert(part.name());
            }
            Seen::Repaired => {
                self.seen.insert(part.name());
                if matches!(part, Part::Log { needed: true, .. }) {
                    tracing::warn!("the scrub met damage that parity repairs; compacting");
                    compactor.shared.unrepaired.store(true, Ordering::Relaxed);
                    compactor.repair = true;
                }
            }
            Seen::Damaged(error) => found(compactor, &part, error),
        }
    }

    fn look(&self, compactor: &Compactor, part: &Part) -> Seen {
        let started = Instant::now();
        let mut looked = started;
        let mut bytes = 0;
        let rate = self.settings.bytes_per_second.max(1);
        let mut pace = |more: u64| {
            bytes += more;
            let ahead = Duration::from_secs_f64(bytes as f64 / rate as f64)
                .saturating_sub(started.elapsed());
            if ahead > Duration::from_millis(1) {
                std::thread::sleep(ahead.min(Duration::from_millis(100)));
            }
            // What is due does not wait for a round that takes hours.
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if compactor.is_due().is_some() || compactor.shared.failed().is_some() {
                    return false;
                }
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
    if !lost {
        return;
    }
    tracing::error!("CURRENT is damaged; it is written anew");
    compactor.shared.unrepaired.store(true, Ordering::Relaxed);
    let renewed = compactor.rotate_and_renew().is_ok()
        && matches!(
            ekokv_wal::current(compactor.disk.as_ref(), &[]),
            Ok(Some((_, false)))
        );
    if renewed {
        let still = compactor.repair || compactor.damage.is_some();
        compactor.shared.unrepaired.store(still, Ordering::Relaxed);
    } else {
        tracing::warn!("CURRENT could not be written anew; it is tried again");
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
