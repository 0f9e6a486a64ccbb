//! The entries of a block. The layout is in the module's docs.
//!
//! What always holds: a length is compared with the bytes that are left before it is believed; keys
//! ascend from entry to entry; a value or a link that is handed out has the CRC that came with it.

use bytes::Bytes;

use crate::state::{
    EntryRef, Form, KEY_BYTES_MAX, KeptRef, Keyring, Link, Links, Mutation, Recorded, RecordedRef,
    State, Value,
};

const KIND_SECRET: u8 = 1;
const KIND_VALUE: u8 = 2;
const KIND_LINK: u8 = 3;
const KIND_REMEMBERED: u8 = 4;

/// Whole bytes that this program does not understand.
pub(super) const NEWER: &str = "it holds an entry of an unknown kind: a newer version of ekokv wrote it and is needed to read it";

const FLAG_ENVELOPE: u8 = 1;
const FLAG_DEADLINE: u8 = 2;

/// Appends the hashing key and the API keys; how many entries that makes.
pub(super) fn push_keyring(out: &mut Vec<u8>, keyring: &Keyring) -> u32 {
    let hashing_key = Mutation::HashingKey {
        hashing_key: keyring.hashing_key,
    };
    let api_keys = keyring.api_keys.values().map(|key| Mutation::ApiKey {
        id: &key.id,
        role: key.role,
        digest: key.digest,
    });
    let mut count = 0;
    let mut bytes = Vec::new();
    for mutation in [hashing_key].into_iter().chain(api_keys) {
        bytes.clear();
        mutation.encode(&mut bytes);
        out.push(KIND_SECRET);
        // A name has at most 64 KiB.
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        out.extend_from_slice(&bytes);
        count += 1;
    }
    count
}

/// Appends a key with its links behind `previous`, the key before it in the block; how many entries
/// that makes.
pub(super) fn push_key(out: &mut Vec<u8>, previous: &str, recorded: &RecordedRef<'_>) -> u32 {
    let key = recorded.key.as_bytes();
    let shared = previous
        .as_bytes()
        .iter()
        .zip(key)
        .take_while(|(a, b)| a == b)
        .count();
    let rest = &key[shared..];
    // Keys have at most 65 535 bytes, so both parts fit.
    let lengths = |out: &mut Vec<u8>| {
        out.extend_from_slice(&(shared as u16).to_le_bytes());
        out.extend_from_slice(&(rest.len() as u16).to_le_bytes());
    };
    match &recorded.kept {
        KeptRef::Live(entry) => {
            let mut flags = 0;
            if entry.form == Form::Envelope {
                flags |= FLAG_ENVELOPE;
            }
            if entry.deadline.is_some() {
                flags |= FLAG_DEADLINE;
            }
            out.extend_from_slice(&[KIND_VALUE, flags]);
            lengths(out);
            // A value came in one request, which fits into a segment: less than 4 GiB.
            out.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
            out.extend_from_slice(&entry.version.to_le_bytes());
            out.extend_from_slice(&recorded.value_crc.to_le_bytes());
            if let Some(deadline) = entry.deadline {
                out.extend_from_slice(&deadline.to_le_bytes());
            }
            out.extend_from_slice(rest);
            out.extend_from_slice(&entry.value);
            let links = entry.links.as_slice();
            for (link, crc) in links.iter().zip(recorded.link_crcs) {
                push_link(out, link, *crc);
            }
            1 + links.len() as u32
        }
        KeptRef::Remembered { deadline, version } => {
            out.push(KIND_REMEMBERED);
            lengths(out);
            out.extend_from_slice(&version.to_le_bytes());
            out.extend_from_slice(&deadline.to_le_bytes());
            out.extend_from_slice(rest);
            1
        }
    }
}

fn push_link(out: &mut Vec<u8>, link: &Link, crc: u32) {
    let metadata = link.metadata.as_deref().unwrap_or_default();
    out.push(KIND_LINK);
    out.extend_from_slice(&link.created_at.to_le_bytes());
    out.extend_from_slice(&(link.collection.len() as u16).to_le_bytes());
    out.extend_from_slice(&(link.record_id.len() as u16).to_le_bytes());
    out.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(link.collection.as_bytes());
    out.extend_from_slice(link.record_id.as_bytes());
    out.extend_from_slice(metadata);
}

/// Reads the entries of one block.
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    left: u32,
    /// The key that was read last, within the block; the next one shares a part of it.
    key: Vec<u8>,
    /// Its links.
    links: Links,
    link_crcs: Vec<u32>,
}

type Parsed<T> = Result<T, &'static str>;

impl<'a> Entries<'a> {
    pub(super) fn new(bytes: &'a [u8], count: u32) -> Self {
        Self {
            rest: bytes,
            left: count,
            key: Vec::new(),
            links: Links::default(),
            link_crcs: Vec::new(),
        }
    }

    /// Makes the CRCs of entries right, up to the first one that cannot be followed. For fuzzing, which
    /// gets no further than they are.
    pub(super) fn mend(bytes: &mut [u8], count: u32) {
        let mut crcs = Vec::new();
        let mut entries = Entries::new(bytes, count);
        while entries
            .crcs_of_next(bytes.len(), &mut crcs)
            .is_ok_and(|more| more)
        {}
        for (at, crc) in crcs {
            if let Some(place) = bytes.get_mut(at..at + size_of::<u32>()) {
                place.copy_from_slice(&u32::to_le_bytes(crc));
            }
        }
    }

    /// Where the next entries' CRCs stand in a block of `length` bytes, and what they should be; whether
    /// there were any entries left.
    fn crcs_of_next(&mut self, length: usize, crcs: &mut Vec<(usize, u32)>) -> Parsed<bool> {
        const SECRET_CRC_AT: usize = 1 + 4;
        const VALUE_CRC_AT: usize = 2 + 4 + 4 + 8;
        const LINK_CRC_AT: usize = 1 + 8 + 2 + 2 + 4;
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        let at = length - self.rest.len();
        let [kind] = self.take()?;
        match kind {
            KIND_SECRET => {
                let bytes = self.u32()? as usize;
                let _crc = self.u32()?;
                crcs.push((at + SECRET_CRC_AT, crc32fast::hash(self.bytes(bytes)?)));
            }
            KIND_VALUE => {
                let links_left = self.left;
                let recorded = self.value()?.to_recorded();
                let links = links_left - self.left;
                let made = Recorded::of(recorded.key, recorded.kept);
                crcs.push((at + VALUE_CRC_AT, made.value_crc));
                // They end where the value's entry does; each is as long as its texts.
                let mut end = length - self.rest.len();
                if let (KeptRef::Live(entry), true) =
                    (made.kept.by_ref(), links as usize == made.link_crcs.len())
                {
                    for (link, crc) in entry.links.as_slice().iter().zip(&made.link_crcs).rev() {
                        let metadata = link.metadata.as_ref().map_or(0, Bytes::len);
                        end -= LINK_CRC_AT
                            + 4
                            + link.collection.len()
                            + link.record_id.len()
                            + metadata;
                        crcs.push((end + LINK_CRC_AT, *crc));
                    }
                }
            }
            KIND_REMEMBERED => {
                self.remembered()?;
            }
            _ => return Err("an entry of an unknown kind"),
        }
        Ok(true)
    }

    /// The next key with its links, behind those secrets that stand before it, which go to `secrets`.
    /// `None` at the end of the block.
    pub(super) fn next(&mut self, secrets: &mut State) -> Parsed<Option<RecordedRef<'_>>> {
        while self.left > 0 {
            self.left -= 1;
            let [kind] = self.take()?;
            match kind {
                KIND_SECRET if self.key.is_empty() => self.secret(secrets)?,
                KIND_VALUE => {
                    let recorded = self.value()?;
                    return if recorded.verifies() {
                        Ok(Some(recorded))
                    } else {
                        Err("a value or a link is not the one that came with its CRC")
                    };
                }
                KIND_REMEMBERED => return self.remembered().map(Some),
                KIND_SECRET | KIND_LINK => return Err("an entry where none of its kind belongs"),
                _ => return Err(NEWER),
            }
        }
        if self.rest.is_empty() {
            Ok(None)
        } else {
            Err("bytes behind the last entry")
        }
    }

    /// The key that was read last; empty before the first.
    pub(super) fn last_key(&self) -> &str {
        std::str::from_utf8(&self.key).unwrap_or_default()
    }

    fn secret(&mut self, secrets: &mut State) -> Parsed<()> {
        let length = self.u32()? as usize;
        let crc = self.u32()?;
        let bytes = self.bytes(length)?;
        if crc32fast::hash(bytes) != crc {
            return Err("a secret is not the one that came with its CRC");
        }
        match Mutation::decode(bytes) {
            Ok(mutation @ (Mutation::HashingKey { .. } | Mutation::ApiKey { .. })) => {
                // It frees nothing, and whoever reads a snapshot looks at the API keys anyway.
                let _ = secrets.apply(0, &mutation);
                Ok(())
            }
            _ => Err("a secret that is none"),
        }
    }

    fn value(&mut self) -> Parsed<RecordedRef<'_>> {
        let [flags] = self.take()?;
        if flags & !(FLAG_ENVELOPE | FLAG_DEADLINE) != 0 {
            return Err("a value with unknown flags");
        }
        let lengths = self.key_lengths()?;
        let value_bytes = self.u32()? as usize;
        let version = self.u64()?;
        let value_crc = self.u32()?;
        let deadline = match flags & FLAG_DEADLINE {
            0 => None,
            _ => Some(self.u64()?),
        };
        self.key(lengths)?;
        if value_bytes == 0 {
            return Err("an empty value");
        }
        let value = Value::Lent(self.bytes(value_bytes)?);
        let mut links = Vec::new();
        self.link_crcs.clear();
        while self.left > 0 && self.rest.first() == Some(&KIND_LINK) {
            self.left -= 1;
            let [_kind] = self.take()?;
            let (link, crc) = self.link()?;
            if links.last().is_some_and(|last: &Link| {
                (&last.collection, &last.record_id) >= (&link.collection, &link.record_id)
            }) {
                return Err("links do not ascend");
            }
            links.push(link);
            self.link_crcs.push(crc);
        }
        if !links.is_empty() || !self.links.as_slice().is_empty() {
            self.links = links.into_iter().collect();
        }
        let form = if flags & FLAG_ENVELOPE == 0 {
            Form::Bare
        } else {
            Form::Envelope
        };
        let entry = EntryRef {
            value,
            form,
            version,
            deadline,
            links: &self.links,
        };
        Ok(RecordedRef {
            key: name(&self.key)?,
            kept: KeptRef::Live(entry),
            value_crc,
            link_crcs: &self.link_crcs,
        })
    }

    fn link(&mut self) -> Parsed<(Link, u32)> {
        let created_at = self.u64()?;
        let collection_bytes = usize::from(self.u16()?);
        let record_id_bytes = usize::from(self.u16()?);
        let metadata_bytes = self.u32()? as usize;
        let crc = self.u32()?;
        let link = Link {
            collection: name(self.bytes(collection_bytes)?)?.into(),
            record_id: name(self.bytes(record_id_bytes)?)?.into(),
            metadata: match self.bytes(metadata_bytes)? {
                [] => None,
                text => Some(Bytes::copy_from_slice(text)),
            },
            created_at,
        };
        Ok((link, crc))
    }

    fn remembered(&mut self) -> Parsed<RecordedRef<'_>> {
        let lengths = self.key_lengths()?;
        let version = self.u64()?;
        let deadline = self.u64()?;
        self.key(lengths)?;
        Ok(RecordedRef {
            key: name(&self.key)?,
            kept: KeptRef::Remembered { deadline, version },
            value_crc: 0,
            link_crcs: &[],
        })
    }

    /// Lengths of the shared part and of the rest of a key.
    fn key_lengths(&mut self) -> Parsed<(usize, usize)> {
        Ok((usize::from(self.u16()?), usize::from(self.u16()?)))
    }

    fn key(&mut self, (shared, rest): (usize, usize)) -> Parsed<()> {
        if shared > self.key.len() {
            return Err("a key shares more than the key before it has");
        }
        let rest = self.bytes(rest)?;
        // With equal beginnings the rests decide the order.
        if !self.key.is_empty() && self.key.get(shared..).is_none_or(|before| before >= rest) {
            return Err("keys do not ascend");
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        Ok(())
    }

    fn bytes(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or("an entry is longer than its block")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or("an entry is longer than its block")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

fn name(bytes: &[u8]) -> Parsed<&str> {
    match std::str::from_utf8(bytes) {
        Ok(name) if (1..=KEY_BYTES_MAX).contains(&name.len()) => Ok(name),
        _ => Err("a key or a name is no text, or has no valid length"),
    }
}
