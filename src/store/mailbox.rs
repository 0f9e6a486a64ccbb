//! The owner's mailbox: bounded, many senders, one receiver that takes all there is at once.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::command::{Command, Error, Reply};

/// Commands that may wait; beyond it senders are told to come back. At 50 000 commands a second this
/// is less than a tenth of a second of work.
pub(super) const MAILBOX_COMMANDS_MAX: usize = 4096;

/// Where one reply goes. Dropped unanswered, it tells the caller that the store has ended.
pub(super) type ReplyTo = oneshot::Sender<Result<Reply, Error>>;

/// A command and where its reply goes.
pub(super) struct Envelope {
    pub(super) command: Command,
    pub(super) reply_to: ReplyTo,
}

pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    arrived: Condvar,
}

struct Inner {
    waiting: Vec<Envelope>,
    closed: bool,
    /// The owner waits: the next sender wakes it. Others need not, and save the system call.
    owner_sleeps: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        let inner = Inner {
            waiting: Vec::new(),
            closed: false,
            owner_sleeps: false,
        };
        Self {
            inner: Mutex::new(inner),
            arrived: Condvar::new(),
        }
    }

    pub(super) fn send(&self, envelope: Envelope) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Error::Stopping);
        }
        if inner.waiting.len() >= MAILBOX_COMMANDS_MAX {
            return Err(Error::Busy {
                what: "the mailbox",
            });
        }
        inner.waiting.push(envelope);
        let wake = mem::take(&mut inner.owner_sleeps);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Moves all waiting commands into `into`, which is empty. Waits for the first one, at most as
    /// long as `patience` says (`None`: for ever). Returns `false` once the mailbox is closed and
    /// empty.
    pub(super) fn take(&self, into: &mut Vec<Envelope>, patience: Option<Duration>) -> bool {
        let mut inner = self.lock();
        if inner.waiting.is_empty() && !inner.closed && patience != Some(Duration::ZERO) {
            inner.owner_sleeps = true;
            let nothing = |inner: &mut Inner| inner.owner_sleeps && !inner.closed;
            inner = match patience {
                None => self
                    .arrived
                    .wait_while(inner, nothing)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    self.arrived
                        .wait_timeout_while(inner, patience, nothing)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            inner.owner_sleeps = false;
        }
        mem::swap(into, &mut inner.waiting);
        !(into.is_empty() && inner.closed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Refuses further commands; those that wait are still handed out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
