//! The owner: evaluates every command, in one order.
//!
//! What always holds: a command is refused before it takes a sequence, or carried out whole; what
//! changes the state is in the frame, in the same order, with the same sequences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ekokv_wal::{record_bytes, span_of_records};

use super::command::{Answer, Command, Error, Found, Put, Ttl};
use super::mailbox::{Envelope, ReplyTo};
use super::shared::{AbortOnPanic, Shared};
use crate::clock::Clock;
use crate::state::ttl::{SPAN_MS_MAX, format_rfc3339};
use crate::state::{Key, Mutation, Shown, State};

/// Keys that are purged between two looks into the mailbox: some 100 µs of work.
const PURGE_KEYS_MAX: usize = 256;
/// With a deadline ahead the owner looks at the clock at least so often: it may be set.
const CLOCK_PATIENCE: Duration = Duration::from_secs(1);
/// When the log takes no purge it is tried again after so long.
const PURGE_RETRY: Duration = Duration::from_millis(20);
/// A seal of a quiet moment may come between admission and writing, with header and seals of a new
/// segment: blocks of 4 KiB that a frame cannot count on.
const SEAL_BYTES: u64 = 4096;
const SEGMENT_OVERHEAD_BYTES: u64 = 4 * SEAL_BYTES;

pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    /// The last sequence given.
    pub(super) applied: u64,
    /// Store time: the newest the clock has shown, over restarts too, in milliseconds since the Unix
    /// epoch. It never runs back.
    pub(super) now: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_memory_bytes: u64,
}

/// A command's outcome, before it is known whether it may be shown.
struct Outcome {
    /// Sequence that the answer depends on.
    gate: u64,
    answer: Answer,
}

impl Owner {
    /// Runs until the mailbox is closed and empty.
    pub(super) fn run(mut self) {
        let _abort = AbortOnPanic;
        let mut envelopes = Vec::new();
        let mut patience = self.patience(false);
        loop {
            let open = self.shared.mailbox.take(&mut envelopes, patience);
            self.now = self.now.max(self.clock.now_ms());
            let before = self.applied;
            for envelope in envelopes.drain(..) {
                self.carry_out(envelope);
            }
            let refused = self.purge();
            self.state.released(self.shared.frame.released());
            if self.applied != before && self.shared.mailbox.is_empty() {
                self.shared.frame.settle();
            }
            if !open {
                break;
            }
            patience = self.patience(refused);
        }
        self.shared.frame.close();
    }

    /// How long to wait for commands before looking at deadlines again.
    fn patience(&self, purge_refused: bool) -> Option<Duration> {
        let due = self.state.next_due()?;
        if due <= self.now && purge_refused {
            return Some(PURGE_RETRY);
        }
        Some(Duration::from_millis(due.saturating_sub(self.now)).min(CLOCK_PATIENCE))
    }

    fn carry_out(&mut self, envelope: Envelope) {
        let Envelope { command, reply_to } = envelope;
        let refused = match command {
            Command::Get { key } => {
                let outcome = self.get(&key);
                self.show(outcome, reply_to);
                return;
            }
            Command::BatchGet { keys } => {
                let outcome = self.batch_get(&keys);
                self.show(outcome, reply_to);
                return;
            }
            Command::Set(put) => self.set(&put, reply_to),
            Command::Delete { key } => self.delete(&key, reply_to),
            Command::BatchSet { puts } => self.batch_set(&puts, reply_to),
            Command::BatchDelete { keys } => self.batch_delete(&keys, reply_to),
            Command::Clear => self.clear(reply_to),
        };
        if let Err((error, reply_to)) = refused {
            // A caller that has gone needs no answer.
            let _ = reply_to.send(Err(error));
        }
    }

    fn get(&self, key: &str) -> Outcome {
        let lookup = self.state.get(key, self.now);
        let answer = match lookup.slot {
            Shown::Found(entry) => Answer::Found(found(entry)),
            Shown::Expired { .. } => Answer::Expired,
            Shown::Missing => Answer::Missing,
        };
        Outcome {
            gate: lookup.gate,
            answer,
        }
    }

    fn batch_get(&self, keys: &[Key]) -> Outcome {
        let mut gate = 0;
        let found_many = keys
            .iter()
            .map(|key| {
                let lookup = self.state.get(key, self.now);
                gate = gate.max(lookup.gate);
                match lookup.slot {
                    Shown::Found(entry) => Some(found(entry)),
                    Shown::Expired { .. } | Shown::Missing => None,
                }
            })
            .collect();
        Outcome {
            gate,
            answer: Answer::FoundMany(found_many),
        }
    }

    fn set(&mut self, put: &Put, reply_to: ReplyTo) -> Result<(), (Error, ReplyTo)> {
        let deadline = match self.deadline(put.ttl) {
            Ok(deadline) => deadline,
            Err(error) => return Err((error, reply_to)),
        };
        let mutation = Mutation::Put {
            key: &put.key,
            value: put.value.clone(),
            form: put.form,
            deadline,
        };
        let answer = |version| Answer::Stored { version, deadline };
        self.write(&[mutation], reply_to, answer)
    }

    fn batch_set(&mut self, puts: &[Put], reply_to: ReplyTo) -> Result<(), (Error, ReplyTo)> {
        // Of equal keys the last wins, and only it is a change.
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, put) in puts.iter().enumerate() {
            last.insert(&put.key, index);
        }
        let mut mutations = Vec::with_capacity(last.len());
        for (index, put) in puts.iter().enumerate() {
            // Every deadline is checked, also of those that a later one replaces.
            let deadline = match self.deadline(put.ttl) {
                Ok(deadline) => deadline,
                Err(error) => return Err((error, reply_to)),
            };
            if last.get(&*put.key) == Some(&index) {
                mutations.push(Mutation::Put {
                    key: &put.key,
                    value: put.value.clone(),
                    form: put.form,
                    deadline,
                });
            }
        }
        if mutations.is_empty() {
            self.show(
                Outcome {
                    gate: 0,
                    answer: Answer::StoredMany,
                },
                reply_to,
            );
            return Ok(());
        }
        self.write(&mutations, reply_to, |_| Answer::StoredMany)
    }

    fn delete(&mut self, key: &str, reply_to: ReplyTo) -> Result<(), (Error, ReplyTo)> {
        if self.state.live(key, self.now).is_none() {
            let gate = self.state.get(key, self.now).gate;
            self.show(
                Outcome {
                    gate,
                    answer: Answer::Deleted(false),
                },
                reply_to,
            );
            return Ok(());
        }
        self.write(&[Mutation::Delete { key }], reply_to, |_| {
            Answer::Deleted(true)
        })
    }

    fn batch_delete(&mut self, keys: &[Key], reply_to: ReplyTo) -> Result<(), (Error, ReplyTo)> {
        let mut gate = 0;
        let mut seen = BTreeSet::new();
        let mut mutations = Vec::new();
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            let live = self.state.live(key, self.now).is_some();
            there.push(live);
            if live && seen.insert(&**key) {
                mutations.push(Mutation::Delete { key });
            } else if !live {
                gate = gate.max(self.state.get(key, self.now).gate);
            }
        }
        let answer = Answer::DeletedMany(there);
        if mutations.is_empty() {
            self.show(Outcome { gate, answer }, reply_to);
            return Ok(());
        }
        self.write(&mutations, reply_to, |_| answer)
    }

    fn clear(&mut self, reply_to: ReplyTo) -> Result<(), (Error, ReplyTo)> {
        if self.state.live_len() == 0 && self.state.remembered_len() == 0 {
            self.show(
                Outcome {
                    gate: self.applied,
                    answer: Answer::Cleared,
                },
                reply_to,
            );
            return Ok(());
        }
        self.write(&[Mutation::Clear], reply_to, |_| Answer::Cleared)
    }

    fn show(&self, outcome: Outcome, reply_to: ReplyTo) {
        self.shared
            .frame
            .answer_after(outcome.gate, self.applied, reply_to, outcome.answer);
    }

    /// Gives the mutations their sequences, applies them and puts them into the frame, or refuses
    /// before anything has happened. `answer` is handed the last sequence.
    fn write(
        &mut self,
        mutations: &[Mutation<'_>],
        reply_to: ReplyTo,
        answer: impl FnOnce(u64) -> Answer,
    ) -> Result<(), (Error, ReplyTo)> {
        let admitted = self
            .check_memory(mutations)
            .and_then(|()| self.admit(mutations));
        if let Err(error) = admitted {
            return Err((error, reply_to));
        }
        self.apply(mutations);
        let answer = answer(self.applied);
        self.shared
            .frame
            .push(mutations, self.applied, self.now, Some((reply_to, answer)));
        Ok(())
    }

    fn apply(&mut self, mutations: &[Mutation<'_>]) {
        for mutation in mutations {
            self.applied = self.applied.saturating_add(1);
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
        shared.frame.admit(bytes, |in_flight, together| {
            let flying = if in_flight == 0 {
                0
            } else {
                span_of_records(in_flight)
            };
            let span = flying.saturating_add(span_of_records(together));
            // Both, one after the other, here or, if a spare is ready, in the next segment.
            let ready = shared.spares.ready();
            span.saturating_add(SEAL_BYTES) <= shared.room.load(Ordering::SeqCst)
                || (ready
                    && span.saturating_add(SEGMENT_OVERHEAD_BYTES) <= shared.spares.segment_bytes())
        })
    }

    /// Refuses puts that would make the state grow beyond its limit. What they replace is counted.
    fn check_memory(&self, mutations: &[Mutation<'_>]) -> Result<(), Error> {
        let used = self.state.memory_bytes();
        let mut after = used;
        for mutation in mutations {
            if let Mutation::Put {
                key,
                value,
                deadline,
                ..
            } = mutation
            {
                let comes = State::entry_bytes(key.len(), value.len(), deadline.is_some());
                let goes = self.state.live(key, self.now).map_or(0, |old| {
                    State::entry_bytes(key.len(), old.value.len(), old.deadline.is_some())
                });
                after = after.saturating_add(comes).saturating_sub(goes);
            }
        }
        if after > used && after > self.max_memory_bytes {
            return Err(Error::MemoryFull {
                used,
                limit: self.max_memory_bytes,
            });
        }
        Ok(())
    }

    fn deadline(&self, ttl: Ttl) -> Result<Option<u64>, Error> {
        let farthest = self.now.saturating_add(SPAN_MS_MAX);
        match ttl {
            Ttl::None => Ok(None),
            Ttl::After(span) => {
                let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                Ok(Some(self.now.saturating_add(span).min(farthest)))
            }
            Ttl::At(at) if at <= self.now || at > farthest => Err(Error::TtlOutOfRange {
                at: format_rfc3339(at),
            }),
            Ttl::At(at) => Ok(Some(at)),
        }
    }

    /// Drops values whose deadline has passed and forgets keys that were remembered long enough, a
    /// slice of them. Says whether the log had no room for it.
    fn purge(&mut self) -> bool {
        let Some(due) = self.state.next_due() else {
            return false;
        };
        if due > self.now {
            return false;
        }
        let due = self.state.due(self.now, PURGE_KEYS_MAX);
        let mutations: Vec<Mutation<'_>> = due.iter().map(|due| due.mutation()).collect();
        if self.admit(&mutations).is_err() {
            return true;
        }
        self.apply(&mutations);
        self.shared
            .frame
            .push(&mutations, self.applied, self.now, None);
        false
    }
}

fn found(entry: &crate::state::Entry) -> Found {
    Found {
        value: entry.value.clone(),
        form: entry.form,
        version: entry.version,
        deadline: entry.deadline,
    }
}
