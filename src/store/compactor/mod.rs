//! The compactor: folds the log into snapshots, looks sealed files over, and rescues the state when it
//! finds damage.
//!
//! What always holds:
//! - It reads sealed segments and snapshots, and writes snapshots; the log's writer and the owner go on
//!   meanwhile. It holds no copy of the state, but a segment's worth of log.
//! - A snapshot is published only after what was read back has the fingerprint that the live state had
//!   where the snapshot ends. Nothing is removed before.
//! - A failure here never ends the store: what was begun is dropped, `degraded` is set, and it is tried
//!   again.

mod build;
mod desk;
mod generations;
mod merge;
mod pace;
mod policy;
mod rescue;
mod runs;
mod scrub;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use ekokv_wal::{Disk, Error};

pub(super) use desk::{CompactedTo, Desk};
pub(super) use generations::{Generation, Generations, remove_unfinished, set_aside};
pub use policy::Schedule;
pub use scrub::Scrub;

use super::chore::{Chore, NotNow, Rotated};
use super::command;
use super::logged::Amounts;
use super::shared::{AbortOnPanic, Shared};
use super::snapshot::is_passing;
use build::{Order, Trouble, build};
use desk::Word;
use pace::{Pace, give_way};
use policy::Facts;
use scrub::Scrubber;

/// So often the compactor looks whether a compaction is due.
const LOOK: Duration = Duration::from_millis(200);
/// The next segment is waited for in steps of this.
const SPARE_PATIENCE: Duration = Duration::from_millis(5);
/// Without a next segment after so long there is no compaction now.
const ROTATION_PATIENCE: Duration = Duration::from_secs(10);
/// The same if the next segment could not be made, time for another try or two.
const FAILED_PATIENCE: Duration = Duration::from_secs(2);
/// The same at a stop, which goes on without.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// After a failure nothing is begun by itself for so long.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// And after each further one twice as long, up to this.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// A compaction at a stop is given up after so long.
const STOP_COMPACTION: Duration = Duration::from_secs(10);
/// A run in memory takes at most so many bytes, however long segments are.
const RUN_BYTES_MAX: u64 = 64 << 20;

/// What it needs to know of the store.
pub(super) struct Compactor {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) schedule: Schedule,
    pub(super) store_id: [u8; 16],
    pub(super) segment_bytes: u64,
    pub(super) generations: Generations,
    /// What was logged before the last rotation and is in no snapshot.
    pub(super) owed: Amounts,
    /// Damage was met that the next compaction folds away.
    pub(super) repair: bool,
    /// Damage that a rescue was begun for and not ended: it is begun again.
    pub(super) damage: Option<Error>,
    pub(super) scrub: Scrub,
    /// When the last compaction ended, or the store started.
    pub(super) since: Instant,
    /// Nothing is begun by itself before.
    pub(super) not_before: Instant,
    /// So long after the next failure it is tried again.
    pub(super) retry: Duration,
}

impl Compactor {
    /// Runs until the desk is closed.
    pub(super) fn run(mut self) {
        let _abort = AbortOnPanic;
        give_way();
        let mut scrubber = Scrubber::new(self.scrub);
        loop {
            match self.shared.desk.wait(LOOK) {
                Word::Compact(requests) => self.serve(requests),
                Word::Stop => {
                    if self.schedule.due_at_stop(&self.facts()) {
                        tracing::info!("compacting before the stop");
                        let mut pace = Pace::until(&self.shared, STOP_COMPACTION);
                        // The stop goes on without; the log says all.
                        let _ = self.compact(&mut pace);
                    }
                    return;
                }
                Word::Nothing => {
                    match self.is_due() {
                        Some(reason) => {
                            tracing::info!(reason, "compacting");
                            let mut pace = Pace::gentle(&self.shared);
                            // It has been logged, and is tried again.
                            let _ = self.compact(&mut pace);
                        }
                        None => scrubber.step(&mut self),
                    }
                }
            }
        }
    }

    fn missing(&self) -> u64 {
        self.shared.space.missing(&self.shared.logged)
    }

    fn is_space_short(&self) -> bool {
        self.missing() > 0
    }

    /// Why a compaction should begin now.
    fn is_due(&self) -> Option<&'static str> {
        let facts = self.facts();
        let due = self.schedule.due(&facts);
        let due = due.filter(|_| Instant::now() >= self.not_before);
        self.shared.space.set_stuck(facts.stuck && due.is_none());
        due
    }

    fn facts(&self) -> Facts {
        Facts {
            logged: self.owed + self.shared.logged.so_far(),
            snapshot_bytes: self.generations.newest().map_or(0, |g| g.bytes),
            elapsed: self.since.elapsed(),
            repair: self.repair || self.damage.is_some(),
            failed: self.shared.compaction_failed.load(Ordering::Relaxed),
            space_short: self.is_space_short(),
            stuck: !self.shared.spares.ready()
                && !self.shared.space.has_segment(&self.shared.logged),
        }
    }

    /// Compacts because somebody asked for it.
    fn serve(&mut self, requests: Vec<CompactedTo>) {
        let mut pace = Pace::gentle(&self.shared);
        let outcome = self.compact(&mut pace);
        let answer = outcome.map_err(|trouble| match trouble {
            Trouble::Stopping => command::Error::Stopping,
            Trouble::Damage(error) | Trouble::Storage(error) => command::Error::NotCompacted {
                reason: error.to_string(),
            },
        });
        let answer = answer.map_err(|error| match self.missing() {
            // Whatever was tried, this is what it was tried without.
            missing @ 1.. if matches!(error, command::Error::NotCompacted { .. }) => {
                command::Error::SpaceFull { missing }
            }
            _ => error,
        });
        for request in requests {
            // Whoever asked may have gone.
            let _ = request.send(answer.clone());
        }
    }

    /// Folds all that was logged so far into a snapshot. Returns its last sequence.
    fn compact(&mut self, pace: &mut Pace) -> Result<u64, Trouble> {
        self.shared.space.set_stuck(false);
        let outcome = self.compact_or_rescue(pace);
        self.account(outcome)
    }

    /// Keeps the books about how a compaction or a rescue went.
    fn account(&mut self, outcome: Result<u64, Trouble>) -> Result<u64, Trouble> {
        self.since = Instant::now();
        self.shared.space.sample(self.disk.as_ref());
        let failed = match &outcome {
            Ok(_) => {
                self.repair = false;
                self.retry = RETRY;
                self.shared.unrepaired.store(false, Ordering::Relaxed);
                false
            }
            Err(Trouble::Stopping) => return outcome,
            Err(Trouble::Damage(error) | Trouble::Storage(error)) => {
                tracing::warn!(%error, "no snapshot was made; it is tried again");
                self.not_before = Instant::now() + self.retry;
                // What fails again and again rewrites the state each time.
                self.retry = (2 * self.retry).min(RETRY_MAX);
                true
            }
        };
        self.shared
            .compaction_failed
            .store(failed, Ordering::Relaxed);
        outcome
    }

    fn compact_or_rescue(&mut self, pace: &mut Pace) -> Result<u64, Trouble> {
        if let Some(damage) = self.damage.take() {
            return self.rescue(damage, pace);
        }
        self.make_room();
        let rotated = self.rotate()?;
        match self.fold(&rotated, pace) {
            Err(Trouble::Damage(error)) => self.rescue(error, pace),
            other => other,
        }
    }

    /// A snapshot out of the newest one and the log behind it.
    fn fold(&mut self, rotated: &Rotated, pace: &mut Pace) -> Result<u64, Trouble> {
        let Some(to) = rotated.end else {
            return Ok(0);
        };
        let base = self.generations.newest().copied();
        let sequence = to.position.sequence;
        if base.is_some_and(|base| base.sequence() == sequence) {
            // Nothing has changed since. What an older generation was good for is gone if it is damaged.
            self.shared.logged.fold(mem::take(&mut self.owed));
            self.retire(self.repair);
            return Ok(sequence);
        }
        let started = Instant::now();
        let mut order = self.order(base.map(|base| base.end), rotated, to, pace);
        let path = base.map(|base| base.path());
        let made = build(&self.disk, path.as_deref(), &mut order)?;
        self.publish(made, rotated, started);
        self.retire(false);
        Ok(sequence)
    }

    fn order<'a>(
        &self,
        from: Option<ekokv_wal::Predecessor>,
        rotated: &Rotated,
        to: ekokv_wal::Predecessor,
        pace: &'a mut Pace,
    ) -> Order<'a> {
        Order {
            store_id: self.store_id,
            from,
            to,
            time: rotated.time,
            fingerprint: rotated.fingerprint,
            memory_bytes_max: self.segment_bytes.min(RUN_BYTES_MAX),
            pace,
        }
    }

    fn publish(&mut self, made: Generation, rotated: &Rotated, started: Instant) {
        tracing::info!(
            last_sequence = made.sequence(),
            bytes = made.bytes,
            keys = rotated.fingerprint.live,
            took_ms = started.elapsed().as_millis() as u64,
            "a snapshot is published"
        );
        self.generations.publish(made);
        self.shared.space.set_snapshot(made.bytes);
        self.shared.logged.fold(mem::take(&mut self.owed));
    }

    /// Removes what no generation needs; with `only_newest`, or while space is short, all but the
    /// newest.
    fn retire(&mut self, only_newest: bool) {
        if self.shared.failed().is_some() {
            // The data dir may be another's by now.
            return;
        }
        self.shared.space.sample(self.disk.as_ref());
        let only_newest = only_newest || self.is_space_short();
        if only_newest && self.generations.older().is_some() {
            tracing::warn!("there is one generation only: the older one is given up");
        }
        if let Err(error) = self.generations.retire(self.disk.as_ref(), only_newest) {
            tracing::warn!(%error, "a file that nothing needs cannot be removed; it is tried again");
        }
    }

    /// If others took the space that a snapshot needs, the older generation goes first.
    fn make_room(&mut self) {
        self.shared.space.sample(self.disk.as_ref());
        if self.shared.space.is_scarce(&self.shared.logged) && self.generations.older().is_some() {
            self.retire(true);
        }
    }

    /// Ends the present segment.
    fn rotate(&mut self) -> Result<Rotated, Trouble> {
        self.end_segment(false)
    }

    /// The same, and `CURRENT` is written anew in any case.
    fn rotate_and_renew(&mut self) -> Result<Rotated, Trouble> {
        self.end_segment(true)
    }

    fn end_segment(&mut self, renew: bool) -> Result<Rotated, Trouble> {
        let rotated = self.rotate_when_ready(renew);
        self.shared.space.await_segment(false);
        let rotated = rotated?;
        self.owed += rotated.logged;
        Ok(rotated)
    }

    fn rotate_when_ready(&self, renew: bool) -> Result<Rotated, Trouble> {
        let asked = Instant::now();
        loop {
            let (reply, replied) = sync_channel(1);
            self.shared.mailbox.assign(Chore::Rotate { renew, reply });
            match replied.recv() {
                Ok(Ok(rotated)) => return Ok(rotated),
                Ok(Err(NotNow)) if self.shared.failed().is_some() => {
                    return Err(Trouble::Stopping);
                }
                Ok(Err(NotNow)) => {
                    let failed = self.shared.spare_failed.load(Ordering::Relaxed);
                    let patience = match (self.shared.desk.is_stopping(), failed) {
                        // The next try is as far away as that patience.
                        (true, true) => Duration::ZERO,
                        (true, false) => STOP_PATIENCE,
                        (false, true) => FAILED_PATIENCE,
                        (false, false) => ROTATION_PATIENCE,
                    };
                    if asked.elapsed() >= patience {
                        let full = std::io::ErrorKind::StorageFull;
                        return Err(Trouble::Storage(Error::io("prepare", "a segment")(
                            full.into(),
                        )));
                    }
                    self.shared.space.await_segment(true);
                    // Nobody tells when a spare is there; it takes tens of milliseconds.
                    std::thread::sleep(SPARE_PATIENCE);
                }
                // The owner or the log has ended.
                Err(_) => return Err(Trouble::Stopping),
            }
        }
    }
}

/// Whether an error says that bytes are not what was written.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Damaged(_) => true,
        Error::Unreadable { source, .. } => !is_passing(source),
        Error::Io { .. } | Error::TooLarge { .. } | Error::Latched => false,
    }
}

/// Sets a damaged file aside, if that can be done.
fn try_set_aside(disk: &Arc<dyn Disk>, error: &Error) {
    if let Error::Damaged(damage) = error {
        set_aside_or_warn(disk, &damage.file);
    } else if let Error::Unreadable { file, .. } = error {
        set_aside_or_warn(disk, file);
    }
}

fn set_aside_or_warn(disk: &Arc<dyn Disk>, file: &str) {
    if let Err(error) = set_aside(disk, file) {
        tracing::warn!(%error, "a damaged file cannot be set aside; nothing reads it any more");
    }
}

#[cfg(test)]
mod tests;
