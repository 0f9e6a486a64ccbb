//! What a log says, by a model that shares no code with the state: plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use ekokv::state::{ApiKey, Fingerprint, Form, KeptRef, KeyDigest, Mutation, Role, State};
use ekokv_wal::{Disk, Flags, Found};

/// A document: its collection and its id.
type Document = (Box<str>, Box<str>);

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    Live {
        value: Bytes,
        form: Form,
        version: u64,
        deadline: Option<u64>,
        /// Metadata, and when it was linked.
        links: BTreeMap<Document, (Option<Bytes>, u64)>,
    },
    Remembered {
        deadline: u64,
        version: u64,
    },
}

/// A store's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) keys: BTreeMap<Box<str>, Held>,
    hashing_key: [u8; 32],
    api_keys: BTreeMap<Box<str>, (Role, KeyDigest)>,
}

impl Model {
    /// What it is after a change.
    pub(crate) fn apply(&mut self, sequence: u64, mutation: &Mutation<'_>) {
        match mutation {
            Mutation::Put {
                key,
                value,
                form,
                deadline,
            } => {
                let links = match self.keys.remove(*key) {
                    Some(Held::Live { links, .. }) => links,
                    _ => BTreeMap::new(),
                };
                let held = Held::Live {
                    value: value.to_bytes(),
                    form: *form,
                    version: sequence,
                    deadline: *deadline,
                    links,
                };
                self.keys.insert((*key).into(), held);
            }
            Mutation::Delete { key } => {
                self.keys.remove(*key);
            }
            Mutation::Clear => self.keys.clear(),
            Mutation::Link {
                key,
                collection,
                record_id,
                metadata,
                created_at,
            } => {
                if let Some(Held::Live { version, links, .. }) = self.keys.get_mut(*key) {
                    *version = sequence;
                    let document = ((*collection).into(), (*record_id).into());
                    links.insert(document, (metadata.clone(), *created_at));
                }
            }
            Mutation::Unlink {
                key,
                collection,
                record_id,
            } => {
                if let Some(Held::Live { version, links, .. }) = self.keys.get_mut(*key) {
                    *version = sequence;
                    links.remove(&((*collection).into(), (*record_id).into()));
                }
            }
            Mutation::Expire { key } => {
                if let Some(held) = self.keys.get_mut(*key)
                    && let Held::Live {
                        deadline: Some(deadline),
                        ..
                    } = held
                {
                    *held = Held::Remembered {
                        deadline: *deadline,
                        version: sequence,
                    };
                }
            }
            Mutation::Forget { key } => {
                if matches!(self.keys.get(*key), Some(Held::Remembered { .. })) {
                    self.keys.remove(*key);
                }
            }
            Mutation::HashingKey { hashing_key } => self.hashing_key = *hashing_key,
            Mutation::ApiKey { id, role, digest } => {
                self.api_keys.insert((*id).into(), (*role, *digest));
            }
            Mutation::ApiKeyRemoved { id } => {
                self.api_keys.remove(*id);
            }
        }
    }

    /// The content of a state, whose books are right.
    pub(crate) fn of(state: &State) -> Self {
        let mut books = Fingerprint::default();
        books.add_keyring(state.keyring());
        let mut scratch = Vec::new();
        let mut keys = BTreeMap::new();
        for (key, kept) in state.kept_after(None) {
            books.add(&mut scratch, key, kept);
            let held = match kept {
                KeptRef::Live(entry) => Held::Live {
                    links: entry
                        .links
                        .as_slice()
                        .iter()
                        .map(|link| {
                            let document = (link.collection.clone(), link.record_id.clone());
                            (document, (link.metadata.clone(), link.created_at))
                        })
                        .collect(),
                    value: entry.value.to_bytes(),
                    form: entry.form,
                    version: entry.version,
                    deadline: entry.deadline,
                },
                KeptRef::Remembered { deadline, version } => Held::Remembered { deadline, version },
            };
            keys.insert(key.into(), held);
        }
        assert_eq!(books, state.fingerprint(), "the books of the state");
        let api_keys = state.keyring().api_keys.values();
        let api_keys = api_keys.map(|ApiKey { id, role, digest }| (id.clone(), (*role, *digest)));
        Self {
            keys,
            hashing_key: state.keyring().hashing_key,
            api_keys: api_keys.collect(),
        }
    }
}

/// A store's content behind each batch of its log, by the last sequence there.
pub(crate) struct Truth(BTreeMap<u64, Model>);

impl Truth {
    /// What the log on `disk`, which is there from its beginning, says.
    pub(crate) fn read(disk: &dyn Disk) -> Self {
        let mut model = Model::default();
        let mut ends = BTreeMap::new();
        let found = ekokv_wal::read(disk, &[], None, &mut |_, _, batch| {
            for (sequence, record) in (batch.first_sequence..).zip(batch.records()) {
                let mutation = Mutation::decode(record?.bytes).map_err(|e| e.to_string())?;
                model.apply(sequence, &mutation);
            }
            if batch.count > 0 || batch.flags.has(Flags::SKIP) {
                let last = batch.first_sequence + u64::from(batch.count) - 1;
                ends.insert(last, model.clone());
            }
            Ok(())
        });
        assert!(matches!(found.unwrap(), Found::Log(_)));
        Self(ends)
    }

    /// The content where the last sequence is `sequence`, if a batch ends there. With `skips`, if one
    /// ended there or before: a start may have skipped ahead whose own skip was not kept.
    pub(crate) fn at(&self, sequence: u64, skips: bool) -> Option<&Model> {
        let from = if skips { 0 } else { sequence };
        self.0
            .range(from..=sequence)
            .next_back()
            .map(|(_, model)| model)
    }

    /// The last sequence.
    pub(crate) fn last(&self) -> u64 {
        *self.0.last_key_value().unwrap().0
    }

    /// How many batches changed something.
    pub(crate) fn batches(&self) -> usize {
        self.0.len()
    }
}
