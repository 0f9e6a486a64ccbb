//! The open frame: what the owner has applied and the committer has not taken yet, and who waits.
//!
//! What always holds: sequences in the frame follow those that were taken before; a frame is taken when the
//! one before is released, by the committer's thread or by a lone writer's handler, never by both; a waiter
//! is queued under the same lock under which `released` is compared, and `released` is raised before the
//! queue is drained, so none is forgotten.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekokv_wal::planted;

use super::chore::Ticket;
use super::command::{Answer, Error, Reply};
use super::mailbox::ReplyTo;
use super::owner::Caller;
use crate::state::Mutation;
use lone::{LONE_PATIENCE, Lone};

/// This many waiting writers are a group, whoever else may come.
const GROUP_WAITERS: usize = 48;
/// So long after the last sync a group is taken as it is.
const GROUP_PATIENCE: Duration = Duration::from_micros(300);

/// Writes that share one batch, one write and one sync.
#[derive(Default)]
pub(super) struct Frame {
    /// Encoded records.
    pub(super) records: Vec<u8>,
    /// How many there are.
    pub(super) count: u32,
    /// The last one's sequence.
    pub(super) last_sequence: u64,
    /// Store time of the newest, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// Requests whose answer waits for this frame.
    waiters: usize,
    /// Set if the segment ends behind this frame, which may be empty then.
    pub(super) ticket: Option<Ticket>,
}

/// Where the open frame is to be cut: what stands before is written, then the segment ends.
struct Cut {
    ticket: Ticket,
    /// The frame as it was when the cut was asked for.
    records_bytes: usize,
    count: u32,
    last_sequence: u64,
    time: u64,
    waiters: usize,
}

impl Frame {
    /// Takes off what stands before the cut.
    fn split(&mut self, cut: Cut) -> Self {
        let behind = self.records.split_off(cut.records_bytes);
        let before = Self {
            records: mem::replace(&mut self.records, behind),
            count: cut.count,
            last_sequence: cut.last_sequence,
            time: cut.time,
            waiters: cut.waiters,
            ticket: Some(cut.ticket),
        };
        self.count = self.count.saturating_sub(cut.count);
        self.waiters = self.waiters.saturating_sub(cut.waiters);
        before
    }
}

/// An answer that waits until a sequence is released.
struct Waiter {
    sequence: u64,
    reply_to: ReplyTo,
    answer: Answer,
    /// `X-KV-Version` if the answer goes out when all of it is released.
    version: u64,
}

/// How long the committer's thread waits for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until there is some.
    Endless,
    /// At most so long.
    AtMost(Duration),
    /// Until nothing has been written for so long. Lone writers may commit meanwhile.
    Quiet(Duration),
}

/// What the committer is to do next.
pub(super) enum Work {
    /// Write this frame.
    Commit(Frame),
    /// Nothing came for a while.
    Idle,
    /// A lone writer's handler has had the log for so long that another worker should be called.
    Stalled,
    /// Nothing comes any more.
    Stop,
    /// The store has failed: nothing may be written.
    Fail,
}

/// The frame that is being filled, shared by owner and committer.
pub(super) struct OpenFrame {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The sequence up to which answers may show.
    released: AtomicU64,
    /// Since the committer's thread took a frame, a handler has answered others than itself. Its worker is to
    /// wake them, so it must not wait for a disk before.
    has_company: AtomicBool,
    /// Longest frame of more than one request, in bytes.
    frame_bytes_max: u64,
}

/// How the committer's thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    /// It looks by itself within [`LONE_PATIENCE`].
    Light,
    /// It must be woken.
    Deep,
}

struct Inner {
    frame: Frame,
    cut: Option<Cut>,
    waiting: VecDeque<Waiter>,
    /// Bytes of records that the committer has taken and not yet written.
    in_flight_bytes: u64,
    /// The owner has emptied the mailbox since the last push.
    settled: bool,
    last_group: usize,
    last_sync: Instant,
    taken_at: Instant,
    /// How long the last commit took.
    took: Duration,
    /// Commands that the owner had carried out at the last push.
    asked: u64,
    /// `None`: it is awake.
    sleep: Option<Sleep>,
    /// While there is one, nobody else takes the frame.
    lone: Option<Lone>,
    closed: bool,
    failed: bool,
}

impl Inner {
    /// Takes off what is to be written next.
    fn take(&mut self) -> Frame {
        let frame = match self.cut.take() {
            Some(cut) if planted("cut-too-late") => {
                let ticket = Some(cut.ticket);
                Frame {
                    ticket,
                    ..mem::take(&mut self.frame)
                }
            }
            Some(cut) => self.frame.split(cut),
            None => mem::take(&mut self.frame),
        };
        self.in_flight_bytes = frame.records.len() as u64;
        self.taken_at = Instant::now();
        frame
    }

    fn ready(&self) -> bool {
        let frame = &self.frame;
        self.cut.is_some()
            || frame.count > 0
                && (self.closed
                    || frame.waiters >= GROUP_WAITERS
                    || (self.settled && frame.waiters >= self.last_group)
                    || self.last_sync.elapsed() >= GROUP_PATIENCE)
    }
}

impl OpenFrame {
    pub(super) fn new(released: u64, frame_bytes_max: u64) -> Self {
        let now = Instant::now();
        let inner = Inner {
            frame: Frame::default(),
            cut: None,
            waiting: VecDeque::new(),
            in_flight_bytes: 0,
            settled: true,
            last_group: 0,
            last_sync: now,
            taken_at: now,
            took: Duration::MAX,
            asked: 0,
            sleep: None,
            lone: None,
            closed: false,
            failed: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            released: AtomicU64::new(released),
            has_company: AtomicBool::new(false),
            frame_bytes_max,
        }
    }

    /// The sequence up to which answers may show.
    pub(super) fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    // ---- the owner's side ----

    /// Whether records of `bytes` fit into the open frame, and, by the judgement of `room`, which is
    /// given the bytes that the committer has in hand, those of the frame with the new records, and
    /// whether the frame begins with a cut and so a new segment, into the log.
    pub(super) fn admit(
        &self,
        bytes: u64,
        room: impl FnOnce(u64, u64, bool) -> bool,
    ) -> Result<(), Error> {
        let inner = self.lock();
        if inner.failed {
            return Err(Error::OutcomeUnknown);
        }
        let before_cut = inner.cut.as_ref().map_or(0, |cut| cut.records_bytes);
        let frame = inner.frame.records.len().saturating_sub(before_cut) as u64;
        let together = frame.saturating_add(bytes);
        if frame > 0 && together > self.frame_bytes_max {
            return Err(Error::Busy {
                what: "the frame that waits for the log",
            });
        }
        if !room(inner.in_flight_bytes, together, inner.cut.is_some()) {
            return Err(Error::Busy {
                what: "the log space prepared so far",
            });
        }
        Ok(())
    }

    /// Asks for the segment to end behind what is in the frame now. Refuses, and hands the ticket
    /// back, if what is on its way does not fit into the segment by the judgement of `room`, which
    /// is given the bytes that the committer has in hand and those of the frame. If the log has failed
    /// the ticket goes, and whoever waits for its reply learns that there is none.
    pub(super) fn cut(
        &self,
        ticket: Ticket,
        room: impl FnOnce(u64, u64) -> bool,
    ) -> Result<(), Ticket> {
        let mut inner = self.lock();
        if inner.failed {
            return Ok(());
        }
        let frame = &inner.frame;
        let fits = room(inner.in_flight_bytes, frame.records.len() as u64);
        if inner.cut.is_some() || !fits {
            return Err(ticket);
        }
        inner.cut = Some(Cut {
            ticket,
            records_bytes: frame.records.len(),
            count: frame.count,
            last_sequence: frame.last_sequence,
            time: frame.time,
            waiters: frame.waiters,
        });
        self.wake(inner, true);
        Ok(())
    }

    /// Appends mutations that were admitted, the last of which has the sequence `last_sequence`, and
    /// queues the request's answer behind them (purging has none). `settled` says that nobody else waits
    /// for the owner, as [`OpenFrame::settle`] does. `asked` is how many commands the owner has carried out,
    /// if the caller can commit itself.
    ///
    /// Returns whether it is to: then it calls [`OpenFrame::take_lone`] at once, or
    /// [`OpenFrame::give_back`]. Nobody else commits before that.
    pub(super) fn push(
        &self,
        mutations: &[Mutation<'_>],
        last_sequence: u64,
        time: u64,
        answer: Option<(ReplyTo, Answer)>,
        settled: bool,
        asked: Option<u64>,
    ) -> bool {
        let mut inner = self.lock();
        if inner.failed {
            drop(inner);
            if let Some((reply_to, _)) = answer {
                let _ = reply_to.send(Err(Error::OutcomeUnknown));
            }
            return false;
        }
        for mutation in mutations {
            ekokv_wal::push_record(&mut inner.frame.records, |out| mutation.encode(out));
        }
        inner.frame.count = inner.frame.count.saturating_add(mutations.len() as u32);
        inner.frame.last_sequence = last_sequence;
        inner.frame.time = time;
        inner.settled = settled;
        if let Some((reply_to, answer)) = answer {
            inner.frame.waiters += 1;
            let (sequence, version) = (last_sequence, last_sequence);
            // Writes come in ascending order, but a read may wait for one that came before.
            inner.waiting.push_back(Waiter {
                sequence,
                reply_to,
                answer,
                version,
            });
        }
        if let Some(asked) = asked {
            let since_last_push = asked.wrapping_sub(mem::replace(&mut inner.asked, asked));
            if !self.has_company.load(Ordering::Relaxed)
                && let Some(since) = inner.lone_since(since_last_push)
            {
                inner.lone = Some(Lone {
                    since,
                    is_known: false,
                });
                return true;
            }
        }
        self.wake(inner, false);
        false
    }

    /// Lets the batch that the open frame becomes carry `time`, if there is anything in it.
    pub(super) fn touch(&self, time: u64) -> bool {
        let mut inner = self.lock();
        let before_cut = inner.cut.as_ref().map_or(0, |cut| cut.count);
        let open = !inner.failed && inner.frame.count > before_cut;
        if open {
            inner.frame.time = inner.frame.time.max(time);
        }
        open
    }

    /// Sends a read's answer as soon as `sequence` is released, at once if it is.
    pub(super) fn answer_after(
        &self,
        sequence: u64,
        applied: u64,
        caller: impl Caller,
        answer: Answer,
    ) {
        let released = self.released();
        if sequence <= released || planted("unreleased-is-shown") {
            let sequence = applied.min(released);
            caller.tell(Ok(Reply { sequence, answer }));
            return;
        }
        self.queue(sequence, applied, caller.wait(), answer);
    }

    /// The same for a sequence that was not released when it was looked at.
    pub(super) fn queue(&self, sequence: u64, applied: u64, reply_to: ReplyTo, answer: Answer) {
        let mut inner = self.lock();
        // Released meanwhile? Under the lock the answer is final.
        let released = self.released();
        if sequence <= released && !planted("released-not-read-again") {
            drop(inner);
            send(reply_to, answer, applied.min(released));
            return;
        }
        if inner.failed {
            drop(inner);
            let _ = reply_to.send(Err(Error::OutcomeUnknown));
            return;
        }
        let at = inner
            .waiting
            .partition_point(|waiter| waiter.sequence <= sequence);
        inner.waiting.insert(
            at,
            Waiter {
                sequence,
                reply_to,
                answer,
                version: applied,
            },
        );
    }

    /// The mailbox is empty for now: whoever waits is all there is.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        inner.settled = true;
        self.wake(inner, false);
    }

    /// Nothing more is pushed.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.wake(inner, true);
    }

    /// Wakes the committer if it sleeps and there is something for it to do.
    fn wake(&self, mut inner: MutexGuard<'_, Inner>, always: bool) {
        if inner.sleep.is_none() || inner.lone.is_some() {
            return;
        }
        // Behind a lone write it does not know when the frame's patience ends.
        let is_due = || inner.last_group == 0 && inner.frame.count > 0 || inner.ready();
        if always || is_due() {
            inner.sleep = None;
            drop(inner);
            self.changed.notify_one();
        }
    }

    // ---- the committer's side ----

    /// Waits for a group, at most as long as `patience` says.
    pub(super) fn next(&self, patience: Patience) -> Work {
        let started = Instant::now();
        let mut inner = self.lock();
        loop {
            if inner.failed {
                return Work::Fail;
            }
            let wait = if let Some(lone) = &mut inner.lone {
                match LONE_PATIENCE.checked_sub(lone.since.elapsed()) {
                    // Its end wakes whoever knows of it.
                    None if lone.is_known => None,
                    None => {
                        lone.is_known = true;
                        return Work::Stalled;
                    }
                    left => left,
                }
            } else {
                if inner.ready() {
                    let frame = inner.take();
                    inner.last_group = frame.waiters.max(1);
                    self.has_company.store(false, Ordering::Relaxed);
                    return Work::Commit(frame);
                }
                if inner.closed && inner.frame.count == 0 {
                    return Work::Stop;
                }
                // A group that is not complete is taken when its patience ends; before that the owner
                // wakes nobody, so the wait must end by itself. Behind a lone write it does.
                let group_left = match inner.last_group {
                    0 if inner.frame.count == 0 => None,
                    _ => GROUP_PATIENCE.checked_sub(inner.last_sync.elapsed()),
                };
                let idle_left = match patience {
                    Patience::Endless => None,
                    Patience::AtMost(time) => Some(time.saturating_sub(started.elapsed())),
                    Patience::Quiet(time) => {
                        Some(time.saturating_sub(started.max(inner.last_sync).elapsed()))
                    }
                };
                if idle_left == Some(Duration::ZERO) {
                    return Work::Idle;
                }
                [group_left, idle_left].into_iter().flatten().min()
            };
            let (sleep, wait) = match patience {
                Patience::Quiet(_) => {
                    let wait = wait.unwrap_or(LONE_PATIENCE).min(LONE_PATIENCE);
                    (Sleep::Light, Some(wait))
                }
                _ => (Sleep::Deep, wait),
            };
            inner.sleep = Some(sleep);
            inner = match wait {
                None => self
                    .changed
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.changed
                        .wait_timeout(inner, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            inner.sleep = None;
        }
    }

    /// What the committer took is in the log.
    pub(super) fn written(&self) {
        self.lock().in_flight_bytes = 0;
    }

    /// Everything up to `sequence` may be shown: answers whoever waited for it. `spent` is a frame
    /// whose buffer can serve again.
    pub(super) fn release(&self, sequence: u64, mut spent: Frame) {
        self.released.store(sequence, Ordering::Release);
        let mut inner = self.lock();
        inner.last_sync = Instant::now();
        inner.took = inner.last_sync - inner.taken_at;
        if inner.frame.count == 0 && inner.frame.records.capacity() < spent.records.capacity() {
            spent.records.clear();
            inner.frame.records = mem::take(&mut spent.records);
        }
        let count = inner
            .waiting
            .partition_point(|waiter| waiter.sequence <= sequence);
        let ready: Vec<Waiter> = inner.waiting.drain(..count).collect();
        if inner.lone.is_some() && count > 1 {
            self.has_company.store(true, Ordering::Relaxed);
        }
        drop(inner);
        for Waiter {
            reply_to,
            answer,
            version,
            ..
        } in ready
        {
            send(reply_to, answer, version.min(sequence));
        }
    }

    /// The log has failed: nobody who waits is told anything but that.
    pub(super) fn fail(&self) {
        let mut inner = self.lock();
        inner.failed = true;
        inner.cut = None;
        let waiting = mem::take(&mut inner.waiting);
        drop(inner);
        self.changed.notify_one();
        for waiter in waiting {
            // A caller that has gone needs no answer.
            let _ = waiter.reply_to.send(Err(Error::OutcomeUnknown));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(reply_to: ReplyTo, answer: Answer, sequence: u64) {
    // A caller that has gone needs no answer.
    let _ = reply_to.send(Ok(Reply { sequence, answer }));
}

mod lone;

#[cfg(test)]
mod tests;
