//! The committer: takes frames, writes each as one batch, syncs it, and lets the answers go.
//!
//! It has a thread, for the runtime's workers must not wait for a disk. A lone writer's handler is the
//! exception: it commits itself what nobody else waits for, which spares two wake-ups of sleeping threads, as
//! long as commits are quick. Should one not be, the committer's thread calls another worker within
//! milliseconds: the one that waits may be the one that was to look after sockets and timers.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekokv_wal::{Draft, Error, Log, planted, span_of_records};
use tokio::runtime::Handle;

use super::chore::{NotNow, Rotated, Ticket};
use super::frame::{Frame, Patience, Work};
use super::logged::Amounts;
use super::options::{Durability, Failure};
use super::shared::{AbortOnPanic, Shared};

/// After so long without a write a seal is put behind the last batch.
const QUIET: Duration = Duration::from_millis(50);

pub(super) struct Committer {
    pub(super) log: Log,
    pub(super) shared: Arc<Shared>,
    pub(super) durability: Durability,
    /// Tells the thread that makes spares that one was used.
    pub(super) spare_wanted: SyncSender<()>,
    /// Store time of the newest batch, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// When it began, or `interval` or a rotation synced last.
    pub(super) synced_at: Instant,
    /// Why `CURRENT` could not be written anew, as was last said.
    pub(super) renewal_failed: Option<String>,
}

/// The committer, for whoever may commit: its thread, or a lone writer's handler.
pub(super) struct Commits {
    /// `None` once the log has ended.
    committer: Mutex<Option<Committer>>,
    shared: Arc<Shared>,
    /// The runtime of the handlers, if one of them may wait for the disk.
    workers: Option<Handle>,
}

impl Commits {
    /// For handlers on the runtime of `workers`, if it has another one when one of them waits for the disk.
    pub(super) fn new(committer: Committer, workers: Option<Handle>) -> Self {
        let shared = Arc::clone(&committer.shared);
        Self {
            committer: Mutex::new(Some(committer)),
            shared,
            workers,
        }
    }

    /// What the committer's thread does: runs until the frame is closed and written, or the log fails.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let _abort = AbortOnPanic;
        let mut patience = self.patience();
        loop {
            let work = self.shared.frame.next(patience);
            if let Work::Stalled = work {
                self.call_worker();
                continue;
            }
            let mut place = self.lock();
            let done = match (work, place.as_mut()) {
                (Work::Commit(frame), Some(committer)) => committer.commit(frame),
                (Work::Idle, Some(committer)) => committer.rest(),
                (Work::Stop, _) => {
                    let ended = place.take().map_or(Ok(()), Committer::stop);
                    return ended.map_err(|error| self.fail(&error));
                }
                (Work::Fail | Work::Stalled, _) | (_, None) => {
                    *place = None;
                    return Ok(());
                }
            };
            if let Err(error) = done {
                *place = None;
                return Err(self.fail(&error));
            }
            drop(place);
            patience = self.patience();
        }
    }

    fn patience(&self) -> Patience {
        let place = self.lock();
        place.as_ref().map_or(Patience::Endless, |committer| {
            committer.patience(self.workers.is_some())
        })
    }

    /// A task from outside wakes a worker that sleeps, and before that one sleeps again it looks after sockets
    /// and timers.
    fn call_worker(&self) {
        if let Some(workers) = &self.workers {
            drop(workers.spawn(async {}));
        }
    }

    /// Commits what a lone writer's handler has put into the frame, on its thread.
    pub(super) fn commit_lone(&self) {
        let _abort = AbortOnPanic;
        if let Some(frame) = self.shared.frame.take_lone() {
            let committed = self
                .lock()
                .as_mut()
                .map(|committer| committer.commit(frame));
            if let Some(Err(error)) = committed {
                self.fail(&error);
            }
            self.shared.frame.give_back();
        }
    }

    /// The log has failed.
    fn fail(&self, error: &Error) -> Failure {
        let failure = Failure::Storage(format!(
            "{error}; whether the last changes were kept is unknown until the next start"
        ));
        tracing::error!(%error, "the log failed");
        self.shared.fail(failure.clone());
        failure
    }

    fn lock(&self) -> MutexGuard<'_, Option<Committer>> {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Committer {
    /// How long the log may be left alone.
    fn patience(&self, handlers_may_commit: bool) -> Patience {
        match self.durability {
            Durability::Interval(interval) if self.is_unsynced() => {
                Patience::AtMost(interval.saturating_sub(self.synced_at.elapsed()))
            }
            Durability::Os => Patience::Endless,
            Durability::Always | Durability::Interval(_) if !self.log.can_seal() => {
                Patience::Endless
            }
            Durability::Always if handlers_may_commit => Patience::Quiet(QUIET),
            Durability::Always | Durability::Interval(_) => Patience::AtMost(QUIET),
        }
    }

    fn is_unsynced(&self) -> bool {
        self.log.synced() != self.log.position().batch
    }

    /// What is to be done when nothing has come for a while.
    fn rest(&mut self) -> Result<(), Error> {
        if self.is_unsynced() {
            self.sync()
        } else {
            self.time = now(self.time, &self.shared);
            self.log.seal(self.time)
        }
    }

    fn stop(self) -> Result<(), Error> {
        let time = now(self.time, &self.shared);
        self.log.stop(time)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.log.sync()?;
        self.synced_at = Instant::now();
        Ok(())
    }

    fn commit(&mut self, mut frame: Frame) -> Result<(), Error> {
        let ticket = frame.ticket.take();
        if frame.count > 0 {
            self.write(frame)?;
        }
        match (ticket, self.durability) {
            (Some(ticket), _) => {
                self.rotate(ticket)?;
                self.synced_at = Instant::now();
            }
            (None, Durability::Interval(interval)) if self.synced_at.elapsed() >= interval => {
                self.sync()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self, frame: Frame) -> Result<(), Error> {
        self.time = self.time.max(frame.time);
        let segment = self.log.segment().number;
        let draft = Draft {
            count: frame.count,
            time: self.time,
            records: &frame.records,
        };
        self.log.append(draft)?;
        if self.durability == Durability::Always && !planted("acknowledged-before-sync") {
            self.log.sync()?;
        }
        self.shared.frame.written();
        let rotated = self.log.segment().number != segment;
        self.shared.logged.add(Amounts {
            records: u64::from(frame.count),
            records_bytes: frame.records.len() as u64,
            disk_bytes: span_of_records(frame.records.len() as u64),
            segments: u64::from(rotated),
        });
        self.shared.frame.release(frame.last_sequence, frame);
        if rotated {
            self.want_spare();
        }
        Ok(())
    }

    /// Ends the segment for the compactor.
    fn rotate(&mut self, ticket: Ticket) -> Result<(), Error> {
        self.time = self.time.max(ticket.time);
        let segment = self.log.segment().number;
        // The compaction has its segment now, and the room for another one is to be its snapshot's: whoever
        // makes spares must know that before this one is taken.
        self.shared.space.await_segment(false);
        let end = self.log.rotate_now(self.time)?;
        let rotated = self.log.segment().number != segment;
        if ticket.renew && !rotated {
            match self.log.renew_current() {
                Ok(()) => self.renewal_failed = None,
                Err(error) if self.log.is_latched() => return Err(error),
                Err(error) => {
                    // Nothing is in doubt: the file has no name yet. It is asked for again within milliseconds.
                    let reason = error.to_string();
                    if self.renewal_failed.as_ref() != Some(&reason) {
                        tracing::warn!(%error, "CURRENT cannot be written anew");
                        self.renewal_failed = Some(reason);
                    }
                    let _ = ticket.reply.send(Err(NotNow));
                    return Ok(());
                }
            }
        }
        let logged = self.shared.logged.take();
        let ended = Amounts {
            segments: u64::from(rotated),
            ..Amounts::default()
        };
        if rotated {
            self.want_spare();
        }
        // If the compactor has gone, so has the wish.
        let _ = ticket.reply.send(Ok(Rotated {
            end,
            fingerprint: ticket.fingerprint,
            time: self.time,
            logged: logged + ended,
        }));
        Ok(())
    }

    fn want_spare(&self) {
        // A full channel says the same already.
        let _ = self.spare_wanted.try_send(());
    }
}

/// Store time, which the owner tells more often than it logs something.
fn now(time: u64, shared: &Shared) -> u64 {
    time.max(shared.time.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use ekokv_wal::{Mode, SimDisk};

    use super::*;
    use crate::state::State;
    use crate::store::frame::OpenFrame;

    const SEGMENT_BYTES: u64 = 64 << 10;

    /// A committer of a log with one record and a spare, and where it says that it took that.
    fn committer(disk: &Arc<SimDisk>) -> (Committer, Receiver<()>) {
        let options = ekokv_wal::Options {
            segment_bytes: SEGMENT_BYTES,
            first_segment_bytes: SEGMENT_BYTES,
            mode: Mode::Always,
            random: Arc::new(|| Ok([7; 16])),
        };
        let first = Draft {
            count: 0,
            time: 1,
            records: &[],
        };
        let mut log = Log::create(Arc::clone(disk) as _, options, |_| Ok(()), first).unwrap();
        let mut records = Vec::new();
        ekokv_wal::push_record(&mut records, |record| record.push(1));
        let draft = Draft {
            count: 1,
            time: 1,
            records: &records,
        };
        log.append(draft).unwrap();
        log.spares().prepare(&mut || true).unwrap();
        let keyring = State::new(1_000).keyring().clone();
        let frame = OpenFrame::new(0, SEGMENT_BYTES / 4);
        let shared = Shared::new(frame, log.shared_room(), log.spares(), keyring, false);
        let (spare_wanted, wanted) = sync_channel(1);
        let committer = Committer {
            log,
            shared: Arc::new(shared),
            durability: Durability::Always,
            spare_wanted,
            time: 1,
            synced_at: Instant::now(),
            renewal_failed: None,
        };
        (committer, wanted)
    }

    fn ticket(renew: bool) -> (Ticket, Receiver<Result<Rotated, NotNow>>) {
        let (reply, replied) = sync_channel(1);
        let ticket = Ticket {
            fingerprint: State::new(1_000).fingerprint(),
            time: 2,
            renew,
            reply,
        };
        (ticket, replied)
    }

    #[test]
    fn row_36_a_compaction_that_has_its_segment_leaves_no_room_for_another_spare() {
        let disk = Arc::new(SimDisk::new());
        let (mut committer, wanted) = committer(&disk);
        let shared = Arc::clone(&committer.shared);
        disk.set_capacity(Some(0));
        shared.space.sample(disk.as_ref());
        assert!(!shared.space.has_segment(&shared.logged));
        shared.space.await_segment(true);
        assert!(shared.space.has_segment(&shared.logged));

        let (ticket, replied) = ticket(false);
        committer.rotate(ticket).unwrap();
        assert!(replied.recv().unwrap().is_ok());
        assert_eq!(wanted.try_recv(), Ok(()));
        assert!(!shared.space.has_segment(&shared.logged));
    }

    #[test]
    fn row_36_current_that_finds_no_room_is_written_anew_later() {
        let disk = Arc::new(SimDisk::new());
        let (mut committer, _wanted) = committer(&disk);
        // Behind this the segment holds no record, and there is nothing to end.
        committer.rotate(ticket(false).0).unwrap();
        disk.set_capacity(Some(0));
        let (full, replied) = ticket(true);
        committer.rotate(full).unwrap();
        assert!(matches!(replied.recv(), Ok(Err(NotNow))));
        disk.set_capacity(None);
        let (free, replied) = ticket(true);
        committer.rotate(free).unwrap();
        assert!(matches!(replied.recv(), Ok(Ok(_))));

        disk.inject(|call, _, _| (call == "rename").then_some(std::io::ErrorKind::Other));
        assert!(committer.rotate(ticket(true).0).is_err());
    }
}
