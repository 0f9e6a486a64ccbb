//! The handle that handlers clone, and the threads behind it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::command::{Command, Error, Reply};
use super::committer::Commits;
use super::options::{Failure, Health, Opened, Options};
use super::seat::{Outcome, Seat};
use super::shared::Shared;
use crate::state::Keyring;

/// A handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) seat: Arc<Seat>,
    pub(super) commits: Arc<Commits>,
    pub(super) shared: Arc<Shared>,
}

/// A command that was handed over.
#[derive(Debug)]
#[must_use]
pub enum Started {
    /// It has been carried out.
    Now(Result<Reply, Error>),
    /// It is, or will be, and its outcome is to be waited for.
    Later(Awaited),
}

/// An outcome that is to be waited for.
#[derive(Debug)]
#[must_use]
pub struct Awaited(oneshot::Receiver<Result<Reply, Error>>);

impl Awaited {
    /// Waits for it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn outcome(self) -> Result<Reply, Error> {
        // Dropped unanswered only if the store ended with the command in hand.
        self.0.await.unwrap_or(Err(Error::OutcomeUnknown))
    }
}

impl Store {
    /// Opens the data dir, replays the log and starts the threads. Blocks until all is loaded.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open(options: Options) -> Result<Opened, Failure> {
        super::open::open(options)
    }

    /// Opens the store that lies on `disk`, simulated or real; `options.data_dir` is for messages.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open_on(options: Options, disk: Arc<dyn ekokv_wal::Disk>) -> Result<Opened, Failure> {
        super::open::open_on(options, disk)
    }

    /// Has a command carried out by the owner and waits for the reply. A caller that stops waiting
    /// changes nothing: the command is carried out all the same.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(&self, command: Command) -> Result<Reply, Error> {
        match self.start(command) {
            Started::Now(outcome) => outcome,
            Started::Later(reply) => reply.outcome().await,
        }
    }

    /// Has a command carried out by the owner, as [`Store::call`] does, and tells its outcome if that is known
    /// at once.
    pub fn start(&self, command: Command) -> Started {
        match self.seat.call(command) {
            Outcome::Now(outcome) => Started::Now(outcome),
            Outcome::Later(reply) => Started::Later(Awaited(reply)),
            Outcome::Lone(reply) => {
                self.commits.commit_lone();
                Started::Later(Awaited(reply))
            }
        }
    }

    /// Has the processor fetch the memory that says where `key` is, for a command that is on its way: it will
    /// wait for less. Takes the owner's seat for a moment, if it is free, and does what was left meanwhile.
    pub fn prefetch(&self, key: &str) {
        self.seat.prefetch(key);
    }

    /// The sequence up to which answers show what has happened.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.shared.frame.released()
    }

    /// Folds all that was logged so far into a snapshot. Returns its last sequence when it is
    /// published.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn compact(&self) -> Result<u64, Error> {
        let (reply_to, reply) = oneshot::channel();
        self.shared.desk.request(reply_to);
        // Dropped unanswered only if the store ended meanwhile.
        reply.await.unwrap_or(Err(Error::Stopping))
    }

    /// The API keys as of now.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        self.shared.keyring()
    }

    /// What `look` makes of the API keys as of now; without a copy, for it is on the path of every request.
    pub fn with_keyring<R>(&self, look: impl FnOnce(&Keyring) -> R) -> R {
        self.shared.with_keyring(look)
    }

    /// Whether the store needs the operator's eye.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Resolves when the log has failed; the process should end with the failure's exit code soon.
    pub fn failed(&self) -> impl Future<Output = Failure> + Send + 'static {
        let mut failure = self.shared.failure();
        async move {
            match failure.wait_for(Option::is_some).await.map(|f| f.clone()) {
                Ok(Some(failure)) => failure,
                // The store ended in order: it will not fail any more.
                _ => std::future::pending().await,
            }
        }
    }
}

/// The threads behind a [`Store`].
pub struct Threads {
    pub(super) shared: Arc<Shared>,
    pub(super) owner: JoinHandle<()>,
    pub(super) committer: JoinHandle<Result<(), Failure>>,
    pub(super) spares: JoinHandle<()>,
    pub(super) compactor: JoinHandle<()>,
}

impl Threads {
    /// Compacts if that is worthwhile, answers what is in the mailbox, seals and syncs the log, and
    /// joins the threads. Blocks.
    ///
    /// # Errors
    /// The failure that ended the store, if one did.
    pub fn stop(self) -> Result<(), Failure> {
        let panicked = |_| Failure::Storage("a thread of the store ended early".to_owned());
        // The owner serves it to its end.
        self.shared.desk.stop();
        self.compactor.join().map_err(panicked)?;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.mailbox.close();
        self.owner.join().map_err(panicked)?;
        let result = self.committer.join().map_err(panicked)?;
        self.spares.join().map_err(panicked)?;
        // What ended the store may have been met elsewhere than in the log.
        result.and(self.shared.failed().map_or(Ok(()), Err))
    }
}
