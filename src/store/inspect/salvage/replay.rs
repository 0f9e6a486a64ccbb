//! The log's changes on top of what the snapshots have.
//!
//! What always holds: a change that a snapshot has seen, as far as that snapshot's word on the key is
//! known, is not made again; changes come in the order of their sequences.

use ekokv_wal::Batch;

use crate::state::{Key, Mutation, State};
use crate::store::snapshot::Parts;

/// A snapshot as far as it verifies.
pub(super) struct Base {
    pub(super) sequence: u64,
    pub(super) parts: Parts,
}

impl Base {
    /// Whether all that it holds verifies; its header may be lost.
    pub(super) fn is_complete(&self) -> bool {
        self.parts.gaps.is_empty() && self.parts.keyring_whole
    }
}

/// The state as it grows.
pub(super) struct Replay<'a> {
    pub(super) state: State,
    /// Oldest first.
    bases: &'a [Base],
    keyring_at: u64,
    /// The last sequence that was seen.
    pub(super) last: u64,
    /// Changes that were made.
    pub(super) applied: u64,
    /// Changes that verify and cannot be understood.
    pub(super) losses: Vec<String>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(state: State, bases: &'a [Base], keyring_at: u64) -> Self {
        Self {
            state,
            bases,
            keyring_at,
            last: 0,
            applied: 0,
            losses: Vec::new(),
        }
    }

    /// Makes the changes of a batch.
    pub(super) fn take(&mut self, path: &str, offset: u64, batch: &Batch<'_>) {
        for (sequence, record) in (batch.first_sequence..).zip(batch.records()) {
            if sequence <= self.last {
                continue;
            }
            let decoded = record
                .map_err(str::to_owned)
                .and_then(|record| Mutation::decode(record.bytes).map_err(|e| e.to_string()));
            match decoded {
                Ok(mutation) => {
                    self.last = sequence;
                    self.apply(sequence, &mutation);
                }
                Err(reason) => self.losses.push(format!(
                    "{path} offset {offset}: sequence {sequence}: {reason}"
                )),
            }
        }
    }

    fn apply(&mut self, sequence: u64, mutation: &Mutation<'_>) {
        let known_at = match (mutation, mutation.key()) {
            (Mutation::Clear, _) => return self.clear(sequence),
            (_, Some(key)) => known_at(self.bases, key),
            (_, None) => self.keyring_at,
        };
        if sequence > known_at {
            self.make(sequence, mutation);
        }
    }

    fn make(&mut self, sequence: u64, mutation: &Mutation<'_>) {
        // Nobody waits for what is dropped here.
        let _ = self.state.apply(sequence, mutation);
        self.state.released(sequence);
        self.applied += 1;
    }

    /// A clear is about those keys alone that no later snapshot speaks of.
    fn clear(&mut self, sequence: u64) {
        if self.bases.iter().all(|base| base.sequence < sequence) {
            return self.make(sequence, &Mutation::Clear);
        }
        let older = |key: &&str| known_at(self.bases, key) < sequence;
        let keys = self.state.kept_after(None).map(|(key, _)| key);
        let gone: Vec<Key> = keys.filter(older).map(Key::from).collect();
        for key in &gone {
            self.make(sequence, &Mutation::Delete { key });
        }
    }
}

/// The sequence as of which the newest snapshot speaks whose word on `key` is known; 0 if there is none.
fn known_at(bases: &[Base], key: &str) -> u64 {
    let mut newest_first = bases.iter().rev();
    newest_first
        .find(|base| base.parts.covers(key))
        .map_or(0, |base| base.sequence)
}
