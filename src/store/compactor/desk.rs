//! Where handlers and the store's end leave word for the compactor.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::command::Error;

/// Where the answer to a request goes: the last sequence of the snapshot.
pub(in crate::store) type CompactedTo = oneshot::Sender<Result<u64, Error>>;

/// What there is to do.
pub(super) enum Word {
    /// Compact now and tell these.
    Compact(Vec<CompactedTo>),
    /// Nobody wants anything: look around.
    Nothing,
    /// The store ends.
    Stop,
}

#[derive(Default)]
pub(in crate::store) struct Desk {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    requests: Vec<CompactedTo>,
    stopping: bool,
}

impl Desk {
    /// Asks for a compaction that begins from now on.
    pub(in crate::store) fn request(&self, reply_to: CompactedTo) {
        let mut inner = self.lock();
        if inner.stopping {
            // Whoever asked may have gone.
            let _ = reply_to.send(Err(Error::Stopping));
            return;
        }
        inner.requests.push(reply_to);
        self.changed.notify_one();
    }

    /// Nothing is asked for any more.
    pub(in crate::store) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Whether there is anything but time.
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.lock();
        inner.stopping || !inner.requests.is_empty()
    }

    /// Waits for word, at most as long as `patience` says.
    pub(super) fn wait(&self, patience: Duration) -> Word {
        let idle = |inner: &mut Inner| !inner.stopping && inner.requests.is_empty();
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if inner.stopping {
            for request in mem::take(&mut inner.requests) {
                let _ = request.send(Err(Error::Stopping));
            }
            Word::Stop
        } else if inner.requests.is_empty() {
            Word::Nothing
        } else {
            Word::Compact(mem::take(&mut inner.requests))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
