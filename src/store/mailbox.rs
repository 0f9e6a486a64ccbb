//! The owner's mailbox: bounded, many senders, one receiver that takes all there is at once. Chores of
//! the compactor come the same way.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::chore::Chore;
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

/// What the owner takes out at once.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) envelopes: Vec<Envelope>,
    pub(super) chores: Vec<Chore>,
}

struct Inner {
    waiting: Vec<Envelope>,
    /// At most one, for the compactor waits for each.
    chores: Vec<Chore>,
    closed: bool,
    /// How often something was taken out.
    turns: u64,
    /// The owner waits: the next sender wakes it. Others need not, and save the system call.
    owner_sleeps: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        let inner = Inner {
            waiting: Vec::new(),
            chores: Vec::new(),
            closed: false,
            turns: 0,
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

    /// Hands in a chore; it is dropped, with its reply, if the store is stopping.
    pub(super) fn assign(&self, chore: Chore) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.chores.push(chore);
        let wake = mem::take(&mut inner.owner_sleeps);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Moves all that waits into `into`, which is empty. Waits for something, at most as long as
    /// `patience` says (`None`: for ever). Returns `false` once the mailbox is closed and no command
    /// is left.
    pub(super) fn take(&self, into: &mut Taken, patience: Option<Duration>) -> bool {
        let mut inner = self.lock();
        let idle = inner.waiting.is_empty() && inner.chores.is_empty() && !inner.closed;
        if idle && patience != Some(Duration::ZERO) {
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
        inner.turns += u64::from(!inner.waiting.is_empty());
        mem::swap(&mut into.envelopes, &mut inner.waiting);
        mem::swap(&mut into.chores, &mut inner.chores);
        !(into.envelopes.is_empty() && inner.closed)
    }

    /// How often commands were taken out: if it has changed, somebody is working.
    pub(super) fn turns(&self) -> u64 {
        self.lock().turns
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
