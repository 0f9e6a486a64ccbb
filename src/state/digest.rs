//! A fingerprint of what the state holds, kept up to date by every change.
//!
//! It is the sum, modulo 2^128, of a hash of each entry, so it depends on what is there and not on how
//! it came there or in which order: a replay, and one day a snapshot, must arrive at the same number.
//! The hash is XXH3-128 (<https://github.com/Cyan4973/xxHash>); it finds damage and defects, not forgers.

use xxhash_rust::xxh3::xxh3_128;

use super::entry::{EntryRef, Form, KeptRef};
use super::keyring::Keyring;
use super::records::Slot;

const LIVE: u8 = 1;
const REMEMBERED: u8 = 2;
const API_KEY: u8 = 3;
const HASHING_KEY: u8 = 4;

/// What a state holds, in numbers: counts for people, and a sum of hashes that no other content has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// Keys with a value, those included whose deadline has passed unnoticed.
    pub live: u64,
    /// Keys that are expired and remembered.
    pub remembered: u64,
    /// Links of all keys.
    pub links: u64,
    /// API keys.
    pub api_keys: u64,
    /// [`super::State::digest`].
    pub digest: u128,
}

impl Fingerprint {
    /// Adds the API keys.
    pub fn add_keyring(&mut self, keyring: &Keyring) {
        self.api_keys += keyring.api_keys.len() as u64;
        self.digest = self.digest.wrapping_add(of_keyring(keyring));
    }

    /// Adds one key. `scratch` is a buffer that serves again.
    pub fn add(&mut self, scratch: &mut Vec<u8>, key: &str, kept: KeptRef<'_>) {
        let comes = match kept {
            KeptRef::Live(entry) => {
                self.live += 1;
                self.links += entry.links.as_slice().len() as u64;
                of_live(scratch, key, &entry)
            }
            KeptRef::Remembered { deadline, version } => {
                self.remembered += 1;
                of_remembered(scratch, key, deadline, version)
            }
        };
        self.digest = self.digest.wrapping_add(comes);
    }
}

/// What one key adds: its version, value, form, deadline and links, or that it is remembered.
/// Tombstones add nothing. `scratch` is a buffer that serves again.
pub(super) fn of_slot(scratch: &mut Vec<u8>, key: &str, slot: &Slot<'_>) -> u128 {
    match slot {
        Slot::Tombstone { .. } => 0,
        Slot::Remembered { deadline, version } => of_remembered(scratch, key, *deadline, *version),
        Slot::Live(entry) => of_live(scratch, key, entry),
    }
}

fn of_remembered(scratch: &mut Vec<u8>, key: &str, deadline: u64, version: u64) -> u128 {
    scratch.clear();
    scratch.push(REMEMBERED);
    scratch.extend_from_slice(&version.to_le_bytes());
    scratch.extend_from_slice(&deadline.to_le_bytes());
    field(scratch, key.as_bytes());
    xxh3_128(scratch)
}

fn of_live(scratch: &mut Vec<u8>, key: &str, entry: &EntryRef<'_>) -> u128 {
    scratch.clear();
    scratch.push(LIVE);
    scratch.push(u8::from(entry.form == Form::Envelope));
    scratch.push(u8::from(entry.deadline.is_some()));
    scratch.extend_from_slice(&entry.deadline.unwrap_or(0).to_le_bytes());
    scratch.extend_from_slice(&entry.version.to_le_bytes());
    field(scratch, key.as_bytes());
    // By its own hash: a value may be megabytes long.
    scratch.extend_from_slice(&xxh3_128(&entry.value).to_le_bytes());
    scratch.extend_from_slice(&entry.links.digest().to_le_bytes());
    xxh3_128(scratch)
}

/// What one link adds to what its key's links add up to.
pub(super) fn of_link(
    collection: &str,
    record_id: &str,
    created_at: u64,
    metadata: Option<&[u8]>,
) -> u128 {
    let mut scratch = vec![u8::from(metadata.is_some())];
    scratch.extend_from_slice(&created_at.to_le_bytes());
    field(&mut scratch, collection.as_bytes());
    field(&mut scratch, record_id.as_bytes());
    scratch.extend_from_slice(&xxh3_128(metadata.unwrap_or_default()).to_le_bytes());
    xxh3_128(&scratch)
}

/// What the API keys and their hashing key add.
pub(super) fn of_keyring(keyring: &Keyring) -> u128 {
    let mut scratch = vec![HASHING_KEY];
    scratch.extend_from_slice(&keyring.hashing_key);
    let mut sum = xxh3_128(&scratch);
    for key in keyring.api_keys.values() {
        scratch.clear();
        scratch.push(API_KEY);
        field(&mut scratch, key.id.as_bytes());
        field(&mut scratch, key.role.as_str().as_bytes());
        scratch.extend_from_slice(&key.digest);
        sum = sum.wrapping_add(xxh3_128(&scratch));
    }
    sum
}

/// Appends bytes of a length that varies, so that no two sequences of fields look the same.
fn field(scratch: &mut Vec<u8>, bytes: &[u8]) {
    scratch.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    scratch.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::{Entry, Link, Links};

    fn entry() -> Entry {
        Entry {
            value: Bytes::from_static(b"1"),
            form: Form::Bare,
            version: 7,
            deadline: None,
            links: Links::default(),
        }
    }

    fn link(metadata: Option<&'static [u8]>, created_at: u64, record_id: &str) -> Links {
        let link = Link {
            collection: "users".into(),
            record_id: record_id.into(),
            metadata: metadata.map(Bytes::from_static),
            created_at,
        };
        [link].into_iter().collect()
    }

    #[test]
    fn each_part_of_an_entry_counts() {
        let with = |change: fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            entry
        };
        let entries = [
            with(|_| {}),
            with(|entry| entry.value = Bytes::from_static(b"2")),
            with(|entry| entry.form = Form::Envelope),
            with(|entry| entry.version = 8),
            with(|entry| entry.deadline = Some(0)),
            with(|entry| entry.deadline = Some(7)),
            with(|entry| entry.links = link(None, 1, "1")),
            with(|entry| entry.links = link(Some(b"1"), 1, "1")),
            with(|entry| entry.links = link(None, 2, "1")),
            with(|entry| entry.links = link(None, 1, "2")),
        ];
        let remembered = [
            Slot::Remembered {
                deadline: 7,
                version: 7,
            },
            Slot::Remembered {
                deadline: 8,
                version: 7,
            },
        ];
        let mut scratch = Vec::new();
        let live = entries.iter().map(|entry| Slot::Live(entry.by_ref()));
        let mut sums: Vec<u128> = live
            .chain(remembered)
            .map(|slot| of_slot(&mut scratch, "k", &slot))
            .collect();
        sums.push(of_slot(&mut scratch, "l", &Slot::Live(entries[0].by_ref())));
        let count = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), count);
        let gone = Slot::Tombstone { version: 7 };
        assert_eq!(of_slot(&mut scratch, "k", &gone), 0);
    }
}
