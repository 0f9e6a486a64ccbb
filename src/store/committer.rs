//! The committer: takes frames, writes each as one batch, syncs it, and lets the answers go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use ekokv_wal::{Draft, Error, Log, planted, span_of_records};

use super::chore::{Rotated, Ticket};
use super::frame::{Frame, Work};
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
}

/// How the work ended.
enum End {
    /// All is written, and nothing comes any more.
    Closed,
    /// The store has failed elsewhere, and nothing may be written.
    Failed,
}

impl Committer {
    /// Runs until the frame is closed and written, or the log fails.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        let _abort = AbortOnPanic;
        let shared = Arc::clone(&self.shared);
        let result = self.commit_all().and_then(|end| match end {
            End::Closed => self.log.stop(now(self.time, &shared)),
            End::Failed => Ok(()),
        });
        result.map_err(|error| {
            let failure = Failure::Storage(format!(
                "{error}; whether the last changes were kept is unknown until the next start"
            ));
            tracing::error!(%error, "the log failed");
            shared.fail(failure.clone());
            failure
        })
    }

    fn commit_all(&mut self) -> Result<End, Error> {
        let mut synced_at = Instant::now();
        loop {
            let unsynced = self.log.synced() != self.log.position().batch;
            let patience = match self.durability {
                Durability::Interval(interval) if unsynced => {
                    Some(interval.saturating_sub(synced_at.elapsed()))
                }
                Durability::Os => None,
                Durability::Always | Durability::Interval(_) => {
                    self.log.can_seal().then_some(QUIET)
                }
            };
            match self.shared.frame.next(patience) {
                Work::Stop => return Ok(End::Closed),
                Work::Fail => return Ok(End::Failed),
                Work::Idle if unsynced => {
                    self.log.sync()?;
                    synced_at = Instant::now();
                }
                Work::Idle => {
                    self.time = now(self.time, &self.shared);
                    self.log.seal(self.time)?;
                }
                Work::Commit(mut frame) => {
                    let ticket = frame.ticket.take();
                    if frame.count > 0 {
                        self.commit(frame)?;
                    }
                    if let Some(ticket) = ticket {
                        self.rotate(ticket)?;
                        synced_at = Instant::now();
                    } else if let Durability::Interval(interval) = self.durability
                        && synced_at.elapsed() >= interval
                    {
                        self.log.sync()?;
                        synced_at = Instant::now();
                    }
                }
            }
        }
    }

    fn commit(&mut self, frame: Frame) -> Result<(), Error> {
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
        let end = self.log.rotate_now(self.time)?;
        let rotated = self.log.segment().number != segment;
        if ticket.renew && !rotated {
            self.log.renew_current()?;
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
