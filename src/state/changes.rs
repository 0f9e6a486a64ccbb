//! Changes of the log, made so in the order of their keys.
//!
//! A start replays millions of changes whose keys come in any order, and each of them would look for its
//! place in a tree that does not fit into the caches. Sorted, those of one leaf come one after the other.
//!
//! What always holds: changes of one key are made so in the order of the log, and a change that is not
//! about one key comes behind all that the log has before it. Nobody looks at the state in between, so
//! nothing else depends on the order: versions are the log's, and books and digest are sums.

use super::fences::{head, shared_bytes};
use super::map::State;
use super::mutation::{DecodeError, Mutation};

/// Changes in the order in which they are made so.
#[derive(Default)]
pub struct Changes {
    /// The mutations' bytes, one behind the other.
    mutations: Vec<u8>,
    /// Sequence and length of each.
    parts: Vec<(u64, usize)>,
    last_sequence: u64,
}

/// A change of one key that is to be sorted.
struct Change<'a> {
    /// Eight bytes of the key, those behind what all keys begin with: most comparisons need no more.
    head: u64,
    key: &'a [u8],
    sequence: u64,
    mutation: &'a [u8],
}

impl Changes {
    /// Sorts mutations, which come with their sequences, in ascending order of these. They are about
    /// `bytes` long together: memory is taken for these at once.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn sorted<'a>(
        mutations: impl IntoIterator<Item = (u64, &'a [u8])>,
        bytes: usize,
    ) -> Result<Self, DecodeError> {
        let mutations = mutations.into_iter();
        let (count, _) = mutations.size_hint();
        let mut changes = Self {
            mutations: Vec::with_capacity(bytes),
            parts: Vec::with_capacity(count),
            last_sequence: 0,
        };
        let mut gathered = Vec::with_capacity(count);
        for (sequence, mutation) in mutations {
            changes.last_sequence = sequence;
            match Mutation::decode(mutation)?.key() {
                Some(key) => gathered.push(Change {
                    head: 0,
                    key: key.as_bytes(),
                    sequence,
                    mutation,
                }),
                None => {
                    changes.append_sorted(&mut gathered);
                    changes.append(sequence, mutation);
                }
            }
        }
        changes.append_sorted(&mut gathered);
        Ok(changes)
    }

    fn append_sorted(&mut self, gathered: &mut Vec<Change<'_>>) {
        let mut keys = gathered.iter().map(|change| change.key);
        let first = keys.next().unwrap_or_default();
        let shared = keys.fold(first.len(), |shared, key| {
            shared_bytes(first.get(..shared).unwrap_or_default(), key)
        });
        for change in &mut *gathered {
            change.head = head(change.key, shared);
        }
        gathered.sort_unstable_by(|a, b| {
            let heads = a.head.cmp(&b.head);
            heads
                .then_with(|| a.key.cmp(b.key))
                .then_with(|| a.sequence.cmp(&b.sequence))
        });
        for change in gathered.drain(..) {
            self.append(change.sequence, change.mutation);
        }
    }

    fn append(&mut self, sequence: u64, mutation: &[u8]) {
        self.mutations.extend_from_slice(mutation);
        self.parts.push((sequence, mutation.len()));
    }

    /// Makes all of them so, and releases them.
    ///
    /// # Errors
    /// None but of a defect: [`Changes::sorted`] has looked at the same bytes.
    pub fn apply(&self, state: &mut State) -> Result<(), DecodeError> {
        let mut rest = self.mutations.as_slice();
        for (sequence, length) in &self.parts {
            let (mutation, behind) = rest.split_at_checked(*length).unwrap_or_default();
            rest = behind;
            let mutation = Mutation::decode(mutation)?;
            // What a clear frees is dropped here: nobody waits yet.
            let _ = state.apply(*sequence, &mutation);
        }
        // At the end, for until then tombstones are not queued in the order of their versions.
        state.released(self.last_sequence);
        // As many turns as there were changes, for each moves but a few records, or a page.
        let mut turns = self.parts.iter();
        while state.is_sparse() && turns.next().is_some() {
            state.released(self.last_sequence);
        }
        Ok(())
    }
}
