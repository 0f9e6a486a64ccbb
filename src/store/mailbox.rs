//! The owner's mailbox: bounded, many senders, and whoever has the owner's seat takes all there is at
//! once. Chores of the compactor come the same way.

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
    called: Condvar,
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
    /// The owner's thread is wanted.
    is_called: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        let inner = Inner {
            waiting: Vec::new(),
            chores: Vec::new(),
            closed: false,
            is_called: false,
        };
        Self {
            inner: Mutex::new(inner),
            called: Condvar::new(),
        }
    }

    /// Leaves a command for whoever has the seat, and wakes nobody.
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
        Ok(())
    }

    /// Hands in a chore for the owner's thread; it is dropped, with its reply, if the store is stopping.
    pub(super) fn assign(&self, chore: Chore) {
        let mut inner = self.lock();
        if !inner.closed {
            inner.chores.push(chore);
            self.wake(inner);
        }
    }

    /// Calls the owner's thread to the seat.
    pub(super) fn call(&self) {
        self.wake(self.lock());
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.is_called = true;
        drop(inner);
        self.called.notify_one();
    }

    /// Sleeps until the owner's thread is called or the mailbox closed, at most for `patience`; not at
    /// all if something waits.
    pub(super) fn wait(&self, patience: Duration) {
        self.wait_while(patience, |inner| inner.waiting.is_empty());
    }

    /// The same, but commands that wait are left to whoever takes the seat meanwhile.
    pub(super) fn stand_back(&self, time: Duration) {
        self.wait_while(time, |_| true);
    }

    fn wait_while(&self, time: Duration, idle: impl Fn(&Inner) -> bool) {
        let is_idle = |inner: &mut Inner| {
            idle(inner) && inner.chores.is_empty() && !inner.is_called && !inner.closed
        };
        let (mut inner, _) = self
            .called
            .wait_timeout_while(self.lock(), time, is_idle)
            .unwrap_or_else(PoisonError::into_inner);
        inner.is_called = false;
    }

    /// Moves all that waits into `into`, which is empty. Returns `false` once the mailbox is closed and
    /// no command is left.
    pub(super) fn take(&self, into: &mut Taken) -> bool {
        let mut inner = self.lock();
        mem::swap(&mut into.envelopes, &mut inner.waiting);
        mem::swap(&mut into.chores, &mut inner.chores);
        !(into.envelopes.is_empty() && inner.closed)
    }

    /// Whether no command waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Refuses further commands; those that wait are still handed out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.called.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
