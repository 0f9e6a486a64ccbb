//! The owner's seat: whoever takes it is the owner for a turn.
//!
//! A handler that finds it free carries out its command itself, which costs neither a message nor a
//! wake-up; one that finds it taken, and still taken after a few looks, leaves its command in the mailbox and
//! goes on with something else.
//! The owner's own thread does what nobody calls for: what is due by the time, the compactor's chores,
//! and what is left over when many come at once.
//!
//! What always holds:
//! - One thread at a time has the seat, so there is one order of commands, and nobody but the owner's
//!   thread ever sleeps for it.
//! - Whoever leaves the seat, or has left a command because it was taken, looks into the mailbox once more (the
//!   owner's thread after it has stood back): a command that is there is carried out by one of them.
//! - A panic in the seat ends the process, whichever thread has it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::command::{Command, Error, Reply};
use super::mailbox::{Envelope, ReplyTo, Taken};
use super::owner::{Caller, Owner, Turn};
use super::shared::{AbortOnPanic, Shared};
use crate::state::hash_of;

/// Who has served the mailbox for so long behind its own command leaves the rest to the owner's thread:
/// its connections wait as well.
const SERVING_MAX: Duration = Duration::from_micros(200);

/// So long the owner's thread leaves the seat to others once it has served a command. If it looked at once
/// it would find the next one, which was left because it had the seat, and go on for as long as many ask;
/// a handler that serves the mailbox spares them the wake-up from another thread.
const STAND_BACK: Duration = Duration::from_micros(50);

/// So often a command looks for a free seat before it goes into the mailbox: a microsecond or two.
const LOOKS_MAX: u32 = 64;

pub(super) struct Seat {
    owner: Mutex<Owner>,
    shared: Arc<Shared>,
}

/// What becomes of a command.
pub(super) enum Outcome {
    /// It is known.
    Now(Result<Reply, Error>),
    /// It will be told.
    Later(oneshot::Receiver<Result<Reply, Error>>),
    /// It will be told once the caller has committed it, with [`Commits::commit_lone`], at once.
    ///
    /// [`Commits::commit_lone`]: super::committer::Commits::commit_lone
    Lone(oneshot::Receiver<Result<Reply, Error>>),
}

/// A caller that carries its command out itself.
struct Here<'a>(&'a mut Option<Outcome>);

impl Caller for Here<'_> {
    fn tell(self, outcome: Result<Reply, Error>) {
        *self.0 = Some(Outcome::Now(outcome));
    }

    fn wait(self) -> ReplyTo {
        let (reply_to, reply) = oneshot::channel();
        *self.0 = Some(Outcome::Later(reply));
        reply_to
    }
}

impl Seat {
    pub(super) fn new(owner: Owner) -> Self {
        let shared = Arc::clone(&owner.shared);
        Self {
            owner: Mutex::new(owner),
            shared,
        }
    }

    /// Has memory fetched for a command about this key that is on its way, see [`State::prefetch_place`]. If the
    /// seat is taken the command will wait for it instead.
    ///
    /// [`State::prefetch_place`]: crate::state::State::prefetch_place
    pub(super) fn prefetch(&self, key: &str) {
        let hash = hash_of(key);
        let Some(owner) = self.take() else {
            return;
        };
        let abort = AbortOnPanic;
        owner.state.prefetch_place(hash);
        drop(owner);
        drop(abort);
        // Whoever found it taken meanwhile left a command.
        if self.look_again() {
            self.shared.frame.keep_company(false);
        }
    }

    /// Carries out a command, or leaves it to whoever has the seat.
    pub(super) fn call(&self, command: Command) -> Outcome {
        let mut outcome = None;
        let mut is_lone = false;
        if let Some(mut owner) = self.take_soon() {
            let _abort = AbortOnPanic;
            if owner.has_ended() {
                return Outcome::Now(Err(Error::Stopping));
            }
            is_lone = owner.serve_one(&command, Here(&mut outcome));
            self.leave(owner);
        } else {
            let (reply_to, reply) = oneshot::channel();
            let sent = self.shared.mailbox.send(Envelope { command, reply_to });
            outcome = Some(match sent {
                Ok(()) => Outcome::Later(reply),
                Err(error) => Outcome::Now(Err(error)),
            });
        }
        if self.look_again() {
            self.shared.frame.keep_company(is_lone);
            is_lone = false;
        }
        match outcome {
            Some(Outcome::Later(reply)) if is_lone => Outcome::Lone(reply),
            // Each caller is told or waits.
            outcome => outcome.unwrap_or(Outcome::Now(Err(Error::OutcomeUnknown))),
        }
    }

    /// Serves the mailbox if nobody else does; says whether it has.
    fn look_again(&self) -> bool {
        let _abort = AbortOnPanic;
        let mut taken = Taken::default();
        let mut started = None;
        loop {
            if self.shared.mailbox.is_empty() {
                return started.is_some();
            }
            if started.get_or_insert_with(Instant::now).elapsed() >= SERVING_MAX {
                break;
            }
            // Whoever has it looks again.
            let Some(mut owner) = self.take() else {
                return true;
            };
            owner.serve(&mut taken);
            self.leave(owner);
        }
        self.shared.mailbox.call();
        true
    }

    /// The seat, if it is free or about to be: most turns are shorter than what a message and its reply
    /// cost. Whoever has it may also have been put to sleep in it, so nobody waits for long.
    fn take_soon(&self) -> Option<MutexGuard<'_, Owner>> {
        for _ in 0..LOOKS_MAX {
            if let Some(owner) = self.take() {
                return Some(owner);
            }
            std::hint::spin_loop();
        }
        self.take()
    }

    /// The seat, if it is free.
    pub(super) fn take(&self) -> Option<MutexGuard<'_, Owner>> {
        match self.owner.try_lock() {
            Ok(owner) => Some(owner),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn leave(&self, mut owner: MutexGuard<'_, Owner>) {
        let is_early = owner.is_due_earlier();
        drop(owner);
        if is_early {
            self.shared.mailbox.call();
        }
    }

    /// What the owner's thread does: runs until the mailbox is closed and empty.
    pub(super) fn run(&self) {
        let _abort = AbortOnPanic;
        let mut taken = Taken::default();
        loop {
            let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
            let Turn { is_open, was_asked } = owner.serve(&mut taken);
            if !is_open {
                owner.end();
                return;
            }
            let patience = owner.patience();
            drop(owner);
            if was_asked {
                // Whoever takes the seat meanwhile does what is due.
                self.shared.mailbox.stand_back(STAND_BACK);
            } else {
                self.shared.mailbox.wait(patience);
            }
        }
    }
}
