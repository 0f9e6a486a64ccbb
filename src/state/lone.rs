//! One key apart from its state: compaction applies the mutations of a key to what a snapshot holds of
//! it, by the same code as everybody else.
//!
//! - What comes out is what a state that went through the same mutations keeps under the key.
//! - The CRC that came with a value, or with a link, goes along with it unchanged.

use super::entry::{Kept, KeptRef, Key};
use super::map::State;
use super::mutation::{Mutation, link_crc, put_crc};

/// What is kept under a key, with the CRCs of the log records that brought value and links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The key.
    pub key: Key,
    /// What is kept.
    pub kept: Kept,
    /// Of a value: CRC-32 of the put that brought it.
    pub value_crc: u32,
    /// CRC-32 of the mutation that brought each link, in the order of the links.
    pub link_crcs: Vec<u32>,
}

/// The same where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedRef<'a> {
    /// The key.
    pub key: &'a str,
    /// What is kept.
    pub kept: KeptRef<'a>,
    /// Of a value: CRC-32 of the put that brought it.
    pub value_crc: u32,
    /// CRC-32 of the mutation that brought each link, in the order of the links.
    pub link_crcs: &'a [u32],
}

impl Recorded {
    /// A key as a state keeps it, with CRCs made now.
    #[must_use]
    pub fn of(key: Key, kept: Kept) -> Self {
        let (value_crc, link_crcs) = match &kept {
            Kept::Live(entry) => {
                let links = entry.links.as_slice();
                (
                    put_crc(&key, &entry.value, entry.form, entry.deadline),
                    links.iter().map(|link| link_crc(&key, link)).collect(),
                )
            }
            Kept::Remembered { .. } => (0, Vec::new()),
        };
        Self {
            key,
            kept,
            value_crc,
            link_crcs,
        }
    }

    /// The same where it lies.
    #[must_use]
    pub fn by_ref(&self) -> RecordedRef<'_> {
        RecordedRef {
            key: &self.key,
            kept: self.kept.by_ref(),
            value_crc: self.value_crc,
            link_crcs: &self.link_crcs,
        }
    }

    /// Whether value and links are those that came with the CRCs.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.by_ref().verifies()
    }
}

impl RecordedRef<'_> {
    /// The same on its own.
    #[must_use]
    pub fn to_recorded(self) -> Recorded {
        Recorded {
            key: self.key.into(),
            kept: self.kept.to_kept(),
            value_crc: self.value_crc,
            link_crcs: self.link_crcs.to_vec(),
        }
    }

    /// Whether value and links are those that came with the CRCs.
    #[must_use]
    pub fn verifies(&self) -> bool {
        let KeptRef::Live(entry) = &self.kept else {
            return true;
        };
        let links = entry.links.as_slice();
        self.value_crc == put_crc(self.key, &entry.value, entry.form, entry.deadline)
            && self.link_crcs.len() == links.len()
            && links
                .iter()
                .zip(self.link_crcs)
                .all(|(link, crc)| *crc == link_crc(self.key, link))
    }
}

/// Takes keys one by one through their mutations.
pub struct Lone {
    state: State,
    key: Key,
    value_crc: u32,
    /// Document and CRC of each link that was made, later ones behind.
    links: Vec<(Box<str>, Box<str>, u32)>,
}

impl Default for Lone {
    fn default() -> Self {
        Self {
            // What is remembered is forgotten by a mutation, not by the passing of time.
            state: State::new(u64::MAX),
            key: Key::default(),
            value_crc: 0,
            links: Vec::new(),
        }
    }
}

impl Lone {
    /// Begins with a key and what a snapshot holds of it.
    pub fn begin(&mut self, key: &str, recorded: Option<Recorded>) {
        self.links.clear();
        self.value_crc = 0;
        if *self.key != *key {
            self.key = key.into();
        }
        if let Some(Recorded {
            kept,
            value_crc,
            link_crcs,
            ..
        }) = recorded
        {
            self.value_crc = value_crc;
            if let Kept::Live(entry) = &kept {
                let links = entry.links.as_slice().iter().zip(link_crcs);
                self.links.extend(
                    links.map(|(link, crc)| (link.collection.clone(), link.record_id.clone(), crc)),
                );
            }
            self.state.put_back(key, kept);
        }
    }

    /// Applies a mutation of this key; `crc` is that of its record.
    pub fn apply(&mut self, sequence: u64, mutation: &Mutation<'_>, crc: u32) {
        match mutation {
            Mutation::Put { .. } => self.value_crc = crc,
            Mutation::Link {
                collection,
                record_id,
                ..
            } => self
                .links
                .push(((*collection).into(), (*record_id).into(), crc)),
            _ => {}
        }
        // No key mutation frees anything large or changes API keys.
        let _ = self.state.apply(sequence, mutation);
        self.state.released(sequence);
    }

    /// What is kept in the end; nothing if the key is gone.
    pub fn end(&mut self) -> Option<Recorded> {
        let kept = self.state.take(&self.key)?;
        let link_crcs = match &kept {
            Kept::Live(entry) => {
                let made = |link: &super::Link| {
                    let mut made = self.links.iter().rev();
                    made.find(|(collection, record_id, _)| {
                        *collection == link.collection && *record_id == link.record_id
                    })
                    .map_or(0, |(_, _, crc)| *crc)
                };
                entry.links.as_slice().iter().map(made).collect()
            }
            Kept::Remembered { .. } => Vec::new(),
        };
        let value_crc = match &kept {
            Kept::Live(_) => self.value_crc,
            Kept::Remembered { .. } => 0,
        };
        Some(Recorded {
            key: self.key.clone(),
            kept,
            value_crc,
            link_crcs,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::{Fingerprint, Form};

    fn put<'a>(key: &'a str, value: &'static str, deadline: Option<u64>) -> Mutation<'a> {
        Mutation::Put {
            key,
            value: value.as_bytes().into(),
            form: Form::Envelope,
            deadline,
        }
    }

    fn link<'a>(key: &'a str, record_id: &'a str, created_at: u64) -> Mutation<'a> {
        Mutation::Link {
            key,
            collection: "users",
            record_id,
            metadata: Some(Bytes::from_static(b"[1]")),
            created_at,
        }
    }

    fn crc(mutation: &Mutation<'_>) -> u32 {
        let mut bytes = Vec::new();
        mutation.encode(&mut bytes);
        crc32fast::hash(&bytes)
    }

    #[test]
    fn a_lone_key_ends_as_in_a_state_and_its_crcs_verify_wherever_it_is_interrupted() {
        let mutations = [
            put("k", "1", None),
            link("k", "a", 1),
            link("k", "b", 2),
            put("k", "2", Some(5)),
            link("k", "a", 3),
            Mutation::Unlink {
                key: "k",
                collection: "users",
                record_id: "b",
            },
            Mutation::Expire { key: "k" },
            link("k", "c", 3),
            put("k", "3", None),
            link("k", "c", 4),
            put("k", "4", Some(9)),
            Mutation::Expire { key: "k" },
            Mutation::Forget { key: "k" },
            put("k", "5", None),
            Mutation::Delete { key: "k" },
        ];
        for cut in 0..=mutations.len() {
            for end in cut..=mutations.len() {
                let mut state = State::new(1_000);
                let mut lone = Lone::default();
                let mut kept = None;
                for (range, base) in [(0..cut, 0), (cut..end, cut as u64)] {
                    lone.begin("k", kept.take());
                    for (sequence, mutation) in (base + 1..).zip(&mutations[range]) {
                        let _ = state.apply(sequence, mutation);
                        state.released(sequence);
                        lone.apply(sequence, mutation, crc(mutation));
                    }
                    kept = lone.end();
                    let expected = state
                        .kept_after(None)
                        .next()
                        .map(|(_, kept)| kept.to_kept());
                    assert_eq!(kept.as_ref().map(|r| r.kept.clone()), expected);
                    assert!(kept.as_ref().is_none_or(Recorded::verifies));
                    if let Some(recorded) = &kept {
                        let again = Recorded::of("k".into(), recorded.kept.clone());
                        assert_eq!(*recorded, again);
                        let mut fingerprint = Fingerprint::default();
                        fingerprint.add_keyring(state.keyring());
                        fingerprint.add(&mut Vec::new(), "k", recorded.kept.by_ref());
                        assert_eq!(fingerprint, state.fingerprint());
                    }
                }
            }
        }
    }
}
