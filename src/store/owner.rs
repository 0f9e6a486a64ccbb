//! The owner: carries out every command, in one order.
//!
//! What always holds: a command is refused before it takes a sequence, or carried out whole; what
//! changes the state is in the frame, in the same order, with the same sequences; what a deadline hides
//! for good is hidden by a time that is in the log before anyone is told.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use ekokv_wal::{record_bytes, span_of_records};

use super::chore::{Chore, NotNow, Rotated, Ticket};
use super::command::{Answer, Command, Error, Reply};
use super::mailbox::{Envelope, ReplyTo, Taken};
use super::plan::{Now, Plan, plan};
use super::provisional::Provisional;
use super::shared::Shared;
use super::timekeeper::Timekeeper;
use crate::state::{KeptRef, Mutation, State, hash_of};

/// A rescue gets so many keys, or so many bytes of them, at once: nobody waits longer for it.
const KEYS_AT_ONCE_MAX: usize = 500;
const KEYS_BYTES_MAX: usize = 256 << 10;
/// The links of one key take at most so many bytes: all of them are listed in one answer.
const LINKS_BYTES_MAX: u64 = 8 << 20;
/// A seal of a quiet moment may come between admission and writing, with header and seals of a new
/// segment: blocks of 4 KiB that a frame cannot count on.
const SEAL_BYTES: u64 = 4096;
const SEGMENT_OVERHEAD_BYTES: u64 = 4 * SEAL_BYTES;

/// So many keys are looked ahead to: what is fetched for more would have left the nearest caches before it is
/// needed.
const PREFETCHED_MAX: usize = 128;

pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// The last sequence given.
    pub(super) applied: u64,
    pub(super) timekeeper: Timekeeper,
    /// The time of this turn that batches carry, in milliseconds since the Unix epoch.
    pub(super) logged: u64,
    /// The time of this turn as readers see it.
    pub(super) now: Now,
    /// The last sequence whose batch carries the logged time of its turn. Once it is released, a
    /// restart knows that time.
    pub(super) carried: u64,
    pub(super) provisional: Provisional,
    pub(super) max_memory_bytes: u64,
    pub(super) progress: Progress,
}

/// How far the owner has come with what is not about the state.
#[derive(Default)]
pub(super) struct Progress {
    /// Turns so far in which a command was carried out.
    turns: u64,
    /// Commands so far, but for finds.
    asked: u64,
    /// The last sequence behind which the mailbox was empty, and the committer knows.
    settled: u64,
    /// This turn is for one command alone.
    for_one: bool,
    /// Its caller is to commit what it changed.
    is_lone: bool,
    /// The log had no room for what the time asked for.
    refused: bool,
    /// When the owner's thread looks at the clock by itself, in milliseconds since the Unix epoch.
    looks_at: u64,
    /// Nothing is carried out any more.
    has_ended: bool,
}

/// What a turn with the mailbox met.
pub(super) struct Turn {
    /// It was not closed, or not empty.
    pub(super) is_open: bool,
    /// There were commands in it.
    pub(super) was_asked: bool,
}

/// Who waits for the outcome of a command.
pub(super) trait Caller {
    /// Tells it at once.
    fn tell(self, outcome: Result<Reply, Error>);

    /// Where it is told later.
    fn wait(self) -> ReplyTo;
}

impl Caller for ReplyTo {
    fn tell(self, outcome: Result<Reply, Error>) {
        // A caller that has gone needs no answer.
        let _ = self.send(outcome);
    }

    fn wait(self) -> ReplyTo {
        self
    }
}

impl Owner {
    /// A turn in which nobody but the mailbox is served.
    pub(super) fn serve(&mut self, taken: &mut Taken) -> Turn {
        let is_open = self.shared.mailbox.take(taken);
        let was_asked = !taken.envelopes.is_empty();
        match taken.envelopes.as_slice() {
            [] => {}
            [one] => self.look_ahead(&one.command),
            many => self.look_ahead_to_many(many.iter().map(|envelope| &envelope.command)),
        }
        self.progress.refused = self.tell_time();
        for Envelope { command, reply_to } in taken.envelopes.drain(..) {
            self.carry_out(&command, reply_to);
        }
        for chore in taken.chores.drain(..) {
            self.do_chore(chore);
        }
        self.end_turn(was_asked);
        Turn { is_open, was_asked }
    }

    /// A turn for one command. Returns whether the caller is to commit what it changed, see
    /// [`OpenFrame::push`](super::frame::OpenFrame::push).
    pub(super) fn serve_one(&mut self, command: &Command, caller: impl Caller) -> bool {
        self.progress.is_lone = false;
        self.look_ahead(command);
        self.progress.refused = self.tell_time();
        self.progress.for_one = true;
        self.carry_out(command, caller);
        self.progress.for_one = false;
        self.end_turn(true);
        self.progress.is_lone
    }

    /// Has memory fetched for the keys of a command that is about to be carried out. If it is a single one,
    /// what says where it is was fetched before, see [`Seat::prefetch`].
    ///
    /// [`Seat::prefetch`]: super::seat::Seat::prefetch
    fn look_ahead(&self, command: &Command) {
        match command.key() {
            Some(key) => self.state.prefetch_record(hash_of(key)),
            None => self.look_ahead_to_many(std::iter::once(command)),
        }
    }

    /// The same for several: first what says where their keys are, then the records.
    fn look_ahead_to_many<'a>(&self, commands: impl Iterator<Item = &'a Command>) {
        let mut hashes = [0; PREFETCHED_MAX];
        let mut len = 0;
        for command in commands {
            command.each_key(PREFETCHED_MAX - len, |key| {
                if let Some(hash) = hashes.get_mut(len) {
                    *hash = hash_of(key);
                    len += 1;
                }
            });
            if len == PREFETCHED_MAX {
                break;
            }
        }
        let hashes = hashes.get(..len).unwrap_or_default();
        for hash in hashes {
            self.state.prefetch_place(*hash);
        }
        for hash in hashes {
            self.state.prefetch_record(*hash);
        }
    }

    /// Ends a turn in which commands were carried out, or only what the time and the compactor ask for.
    fn end_turn(&mut self, was_asked: bool) {
        if was_asked {
            self.progress.turns = self.progress.turns.wrapping_add(1);
            self.shared
                .turns
                .store(self.progress.turns, Ordering::Relaxed);
        }
        self.shared
            .asked
            .store(self.progress.asked, Ordering::Relaxed);
        self.state.released(self.shared.frame.released());
        if self.applied != self.progress.settled && self.shared.mailbox.is_empty() {
            self.shared.frame.settle();
            self.progress.settled = self.applied;
        }
    }

    /// Whether [`Owner::end`] was called.
    pub(super) fn has_ended(&self) -> bool {
        self.progress.has_ended
    }

    /// Nothing more is carried out.
    pub(super) fn end(&mut self) {
        self.progress.has_ended = true;
        self.shared.frame.close();
    }

    fn carry_out(&mut self, command: &Command, caller: impl Caller) {
        if !matches!(command, Command::Find { .. }) {
            self.progress.asked = self.progress.asked.wrapping_add(1);
        }
        let written = match plan(&self.state, self.now, command) {
            Ok(Plan::Show { gate, answer }) => {
                let (gate, applied) = (gate.min(self.applied), self.applied);
                self.shared
                    .frame
                    .answer_after(gate, applied, caller, answer);
                return;
            }
            Ok(Plan::Change(mutation, answer)) => {
                self.write(slice::from_ref(&mutation), answer, caller)
            }
            Ok(Plan::Changes(mutations, answer)) => self.write(&mutations, answer, caller),
            Err(error) => Err((error, caller)),
        };
        match written {
            Ok(()) => self.note_provisional(command),
            Err((error, caller)) => caller.tell(Err(error)),
        }
    }

    fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Rotate { renew, reply } => self.rotate(renew, reply),
            Chore::Keys { after, reply } => {
                let mut bytes = 0;
                let mut keys = Vec::new();
                for (key, kept) in self.state.kept_after(after.as_deref()) {
                    bytes += key.len();
                    if let KeptRef::Live(entry) = &kept {
                        bytes += entry.value.len() + entry.links.bytes() as usize;
                    }
                    keys.push((key.into(), kept.to_kept()));
                    if keys.len() >= KEYS_AT_ONCE_MAX || bytes >= KEYS_BYTES_MAX {
                        break;
                    }
                }
                // If the compactor has gone, so has the wish.
                let _ = reply.send(keys);
            }
        }
    }

    /// Lets the segment end behind all that was applied so far, if the next one is ready and what is
    /// on its way still fits into this one.
    fn rotate(&mut self, renew: bool, reply: SyncSender<Result<Rotated, NotNow>>) {
        let ticket = Ticket {
            fingerprint: self.state.fingerprint(),
            time: self.logged,
            renew,
            reply,
        };
        let shared = &self.shared;
        let cut = shared.frame.cut(ticket, |in_flight, together| {
            let spans = spans(in_flight, together).saturating_add(2 * SEAL_BYTES);
            let fits = spans <= shared.room.load(Ordering::SeqCst);
            // A segment that nothing more goes into may be full to the last block: its room is
            // without the seal that ends it.
            let ends = in_flight == 0 && together == 0;
            shared.spares.in_stock() && (ends || fits)
        });
        if let Err(ticket) = cut {
            let _ = ticket.reply.send(Err(NotNow));
        }
    }

    /// Gives the mutations their sequences, applies them and puts them into the frame, or refuses
    /// before anything has happened.
    fn write<C: Caller>(
        &mut self,
        mutations: &[Mutation<'_>],
        mut answer: Answer,
        caller: C,
    ) -> Result<(), (Error, C)> {
        if let [mutation] = mutations
            && self.state.links_bytes_after(mutation) > LINKS_BYTES_MAX
        {
            let limit = LINKS_BYTES_MAX;
            return Err((Error::LinksFull { limit }, caller));
        }
        let admitted = self
            .check_memory(mutations)
            .and_then(|()| self.check_space(mutations))
            .and_then(|()| self.admit(mutations));
        if let Err(error) = admitted {
            return Err((error, caller));
        }
        self.apply(mutations);
        if let Answer::Stored { version, .. } = &mut answer {
            *version = self.applied;
        }
        let settled = self.progress.for_one && self.shared.mailbox.is_empty();
        if settled {
            self.progress.settled = self.applied;
        }
        let asked = self.progress.for_one.then_some(self.progress.asked);
        self.progress.is_lone = self.shared.frame.push(
            mutations,
            self.applied,
            self.logged,
            Some((caller.wait(), answer)),
            settled,
            asked,
        );
        self.carried = self.applied;
        Ok(())
    }

    fn apply(&mut self, mutations: &[Mutation<'_>]) {
        for mutation in mutations {
            self.applied = self.applied.saturating_add(1);
            self.follow_provisional(mutation);
            let applied = self.state.apply(self.applied, mutation);
            if applied.keyring_changed {
                self.shared.publish_keyring(self.state.keyring().clone());
            }
            if let Some(freed) = applied.freed {
                // Freeing a large map takes long. Without a thread to spare it is freed here.
                let _ = std::thread::Builder::new().spawn(move || drop(freed));
            }
        }
    }

    fn admit(&self, mutations: &[Mutation<'_>]) -> Result<(), Error> {
        let bytes = mutations
            .iter()
            .map(|m| record_bytes(m.encoded_len() as u64))
            .sum();
        let shared = &self.shared;
        shared
            .frame
            .admit(bytes, |in_flight, together, cut| {
                let span = spans(in_flight, together);
                // Both, one after the other, here or, if a spare is ready, in the next segment. Behind a
                // cut it is the next one, and what is before the cut was admitted before.
                let ready = shared.spares.ready();
                !cut && span.saturating_add(SEAL_BYTES) <= shared.room.load(Ordering::SeqCst)
                    || (ready
                        && span.saturating_add(SEGMENT_OVERHEAD_BYTES)
                            <= shared.spares.segment_bytes())
            })
            .map_err(|error| match error {
                // No segment will be ready before somebody else makes room for one.
                Error::Busy { .. } if self.must_not_prepare() => Error::SpaceFull {
                    missing: shared.space.missing(&shared.logged),
                },
                other => other,
            })
    }

    fn must_not_prepare(&self) -> bool {
        let shared = &self.shared;
        !shared.spares.ready()
            && !shared.space.has_segment(&shared.logged)
            && shared.space.is_stuck()
    }

    /// Refuses what would make the state grow while the disk has no room for its next compaction.
    fn check_space(&self, mutations: &[Mutation<'_>]) -> Result<(), Error> {
        let grows = |mutation: &Mutation<'_>| {
            matches!(mutation, Mutation::Put { .. } | Mutation::Link { .. })
        };
        match self.shared.space.missing(&self.shared.logged) {
            missing if missing > 0 && mutations.iter().any(grows) => {
                Err(Error::SpaceFull { missing })
            }
            _ => Ok(()),
        }
    }

    /// Refuses what would make the state grow beyond its limit. What it replaces is counted.
    fn check_memory(&self, mutations: &[Mutation<'_>]) -> Result<(), Error> {
        let used = self.state.memory_bytes();
        let come = |sum: u64, mutation| sum.saturating_add(self.state.comes(mutation));
        if mutations.iter().fold(used, come) <= self.max_memory_bytes {
            return Ok(());
        }
        // Only now is it worth a look at what goes.
        let mut after = used;
        for mutation in mutations {
            after = after
                .saturating_add(self.state.comes(mutation))
                .saturating_sub(self.state.goes(mutation));
        }
        if after > used && after > self.max_memory_bytes {
            return Err(Error::MemoryFull {
                used,
                limit: self.max_memory_bytes,
            });
        }
        Ok(())
    }
}

/// Bytes of a segment that two batches take; one without records is not written.
fn spans(in_flight: u64, together: u64) -> u64 {
    let span = |bytes| match bytes {
        0 => 0,
        bytes => span_of_records(bytes),
    };
    span(in_flight).saturating_add(span(together))
}

mod timing;

#[cfg(test)]
mod tests;
