//! What the store's threads and its handles share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use ekokv_wal::Spares;
use tokio::sync::{Semaphore, watch};

use super::compactor::Desk;
use super::frame::OpenFrame;
use super::logged::Logged;
use super::mailbox::Mailbox;
use super::options::{Failure, Health};
use super::space::Space;
use crate::logging;
use crate::state::Keyring;

pub(super) struct Shared {
    pub(super) mailbox: Mailbox,
    pub(super) frame: OpenFrame,
    /// How many turns the owner had in which it was asked: if it has changed, somebody is working.
    pub(super) turns: AtomicU64,
    /// How many commands other than finds it has carried out.
    pub(super) asked: AtomicU64,
    /// The logged time of the owner's last turn: seals carry it, so that a restart goes on from there.
    pub(super) time: AtomicU64,
    /// Bytes left in the present segment, see [`ekokv_wal::Log::shared_room`].
    pub(super) room: Arc<AtomicU64>,
    pub(super) spares: Arc<Spares>,
    /// What was logged since the last rotation for the compactor.
    pub(super) logged: Logged,
    /// The API keys as of the owner's last change of them; read on each request.
    keyring: RwLock<Arc<Keyring>>,
    /// Room on the disk.
    pub(super) space: Space,
    /// Word for the compactor.
    pub(super) desk: Desk,
    /// Damage was found that is still on disk.
    pub(super) unrepaired: AtomicBool,
    /// The last compaction came to nothing.
    pub(super) compaction_failed: AtomicBool,
    /// The spare could not be made when it was last tried.
    pub(super) spare_failed: AtomicBool,
    /// The wall clock shows a leap that is not confirmed.
    pub(super) clock_in_doubt: AtomicBool,
    /// The store ends: nobody needs another spare.
    pub(super) stopping: AtomicBool,
    /// Turns at matching patterns.
    pub(super) narrowing: Arc<Semaphore>,
    failure: watch::Sender<Option<Failure>>,
}

impl Shared {
    pub(super) fn new(
        frame: OpenFrame,
        room: Arc<AtomicU64>,
        spares: Arc<Spares>,
        keyring: Keyring,
        unrepaired: bool,
    ) -> Self {
        let space = Space::new(spares.segment_bytes());
        Self {
            mailbox: Mailbox::new(),
            frame,
            turns: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            time: AtomicU64::new(0),
            room,
            spares,
            logged: Logged::default(),
            keyring: RwLock::new(Arc::new(keyring)),
            space,
            desk: Desk::default(),
            unrepaired: AtomicBool::new(unrepaired),
            compaction_failed: AtomicBool::new(false),
            spare_failed: AtomicBool::new(false),
            clock_in_doubt: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            narrowing: Arc::new(Semaphore::new(
                thread::available_parallelism().map_or(1, usize::from),
            )),
            failure: watch::Sender::new(None),
        }
    }

    pub(super) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn with_keyring<R>(&self, look: impl FnOnce(&Keyring) -> R) -> R {
        look(&self.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish_keyring(&self, keyring: Keyring) {
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
    }

    pub(super) fn health(&self) -> Health {
        let failed = self.failure.borrow().is_some();
        let unrepaired = self.unrepaired.load(Ordering::Relaxed);
        Health {
            degraded: failed
                || unrepaired
                || self.spare_failed.load(Ordering::Relaxed)
                || self.compaction_failed.load(Ordering::Relaxed)
                || self.clock_in_doubt.load(Ordering::Relaxed)
                || self.space.missing(&self.logged) > 0,
            integrity_ok: !failed && !unrepaired,
        }
    }

    /// The store failed: no write succeeds from here on. The first reason is the one that is told.
    pub(super) fn fail(&self, failure: Failure) {
        // In this order: whoever hears of the failure finds that nothing is taken any more.
        self.frame.fail();
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(failure);
            first
        });
    }

    /// Why the store failed, if it did.
    pub(super) fn failed(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }
}

/// Ends the process if the thread that holds it panics: without its owner the store would answer
/// nothing, or worse, something.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the store panicked; the process ends");
            logging::flush();
            std::process::abort();
        }
    }
}
