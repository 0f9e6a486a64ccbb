//! The bytes of a record: a key and what is stored under it, in one piece.
//!
//! | field | bytes | |
//! | --- | --- | --- |
//! | flags | 1 | bits 0 and 1: 1 live, 2 remembered, 3 tombstone; bit 2: answered in an envelope; bit 3: has a deadline; bit 4: has links, which lie elsewhere; bit 5: the value lies elsewhere |
//! | version | 1 to 10 | |
//! | deadline | 0 to 10 | if bit 3 is set; milliseconds since the Unix epoch |
//! | key length | 1 to 3 | |
//! | value length | 1 to 10 | of live records; with bit 5 the place of the value among those that lie elsewhere |
//! | key | | |
//! | value | | of live records, without bit 5 |
//!
//! Numbers are written seven bits a byte, the lowest first; all bytes but the last have their highest bit
//! set. So a key of 16 bytes with a value of 60 takes 83 after some million changes.

use super::entry::Form;

const KIND_BITS: u8 = 0b11;
const ENVELOPE: u8 = 1 << 2;
const DEADLINE: u8 = 1 << 3;
const LINKS: u8 = 1 << 4;
const ELSEWHERE: u8 = 1 << 5;

const NUMBER_BYTES_MAX: usize = 10;
const HEAD_BYTES_MAX: usize = 1 + 4 * NUMBER_BYTES_MAX;

/// What a record says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has a value.
    Live = 1,
    /// Its value expired and is gone.
    Remembered = 2,
    /// It is gone, and that may still be unreleased.
    Tombstone = 3,
}

/// Where the value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    /// In the record.
    Here(&'a [u8]),
    /// Among the values that lie elsewhere, at this place.
    Elsewhere(u64),
}

/// A record, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    /// Of a value.
    pub(super) form: Form,
    /// The sequence of the key's last change.
    pub(super) version: u64,
    /// Of a value or a remembered key, in milliseconds since the Unix epoch.
    pub(super) deadline: Option<u64>,
    /// Whether the key has links.
    pub(super) has_links: bool,
    pub(super) key: &'a [u8],
    /// Of a value; else empty.
    pub(super) value: Stored<'a>,
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` begin with; `None` if they begin with none.
    #[inline]
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, mut rest) = bytes.split_first()?;
        let kind = match flags & KIND_BITS {
            1 => Kind::Live,
            2 => Kind::Remembered,
            3 => Kind::Tombstone,
            _ => return None,
        };
        let version = number(&mut rest)?;
        let deadline = match flags & DEADLINE {
            0 => None,
            _ => Some(number(&mut rest)?),
        };
        let key_bytes = number(&mut rest)? as usize;
        let value_bytes = match kind {
            Kind::Live => number(&mut rest)?,
            Kind::Remembered | Kind::Tombstone => 0,
        };
        let (key, rest) = rest.split_at_checked(key_bytes)?;
        let value = if flags & ELSEWHERE == 0 {
            Stored::Here(rest.get(..value_bytes as usize)?)
        } else {
            Stored::Elsewhere(value_bytes)
        };
        Some(Self {
            kind,
            form: if flags & ENVELOPE == 0 {
                Form::Bare
            } else {
                Form::Envelope
            },
            version,
            deadline,
            has_links: flags & LINKS != 0,
            key,
            value,
        })
    }

    /// The key of the record that `bytes` begin with; empty if they begin with none.
    #[inline]
    pub(super) fn key_of(bytes: &'a [u8]) -> &'a [u8] {
        Self::read(bytes).map_or(&[], |record| record.key)
    }

    /// Length in bytes of what [`Record::write`] writes.
    pub(super) fn len(&self) -> usize {
        let (value_number, value_bytes) = match self.value {
            Stored::Here(value) => (value.len() as u64, value.len()),
            Stored::Elsewhere(at) => (at, 0),
        };
        let mut bytes = 1 + number_bytes(self.version) + number_bytes(self.key.len() as u64);
        if let Some(deadline) = self.deadline {
            bytes += number_bytes(deadline);
        }
        if self.kind == Kind::Live {
            bytes += number_bytes(value_number);
        }
        bytes + self.key.len() + value_bytes
    }

    /// Writes the record to the beginning of `out`; nothing if it is too short.
    pub(super) fn write(&self, out: &mut [u8]) {
        let (head, head_bytes) = self.head();
        let value = match self.value {
            Stored::Here(value) => value,
            Stored::Elsewhere(_) => &[],
        };
        let key_end = head_bytes + self.key.len();
        let end = key_end + value.len();
        let Some(out) = out.get_mut(..end) else {
            return;
        };
        let (front, value_out) = out.split_at_mut(key_end);
        let (head_out, key_out) = front.split_at_mut(head_bytes);
        head_out.copy_from_slice(head.get(..head_bytes).unwrap_or_default());
        key_out.copy_from_slice(self.key);
        value_out.copy_from_slice(value);
    }

    /// What stands before the key, and its length.
    fn head(&self) -> ([u8; HEAD_BYTES_MAX], usize) {
        let mut flags = self.kind as u8;
        if self.form == Form::Envelope {
            flags |= ENVELOPE;
        }
        if self.deadline.is_some() {
            flags |= DEADLINE;
        }
        if self.has_links {
            flags |= LINKS;
        }
        let value_number = match self.value {
            Stored::Here(value) => value.len() as u64,
            Stored::Elsewhere(at) => {
                flags |= ELSEWHERE;
                at
            }
        };
        let mut head = [0; HEAD_BYTES_MAX];
        let mut at = 0;
        let mut push = |byte: u8| {
            // There is room for the longest numbers.
            if let Some(place) = head.get_mut(at) {
                *place = byte;
            }
            at += 1;
        };
        push(flags);
        push_number(self.version, &mut push);
        if let Some(deadline) = self.deadline {
            push_number(deadline, &mut push);
        }
        push_number(self.key.len() as u64, &mut push);
        if self.kind == Kind::Live {
            push_number(value_number, &mut push);
        }
        (head, at)
    }
}

const fn number_bytes(number: u64) -> usize {
    // Zero takes a byte too.
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

fn push_number(mut number: u64, push: &mut impl FnMut(u8)) {
    while number >= 0x80 {
        push(number as u8 | 0x80);
        number >>= 7;
    }
    push(number as u8);
}

#[inline]
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The length of a record as it usually is: with a version of five bytes and a deadline of six. Large
/// values are not in it, nor their absence: `value_bytes` is what lies in the record, of live ones.
pub(super) fn usual_bytes(
    key_bytes: usize,
    value_bytes: Option<usize>,
    has_deadline: bool,
) -> usize {
    const VERSION_BYTES: usize = 5;
    const DEADLINE_BYTES: usize = 6;
    let length_bytes = |length: usize| number_bytes(length as u64) + length;
    let deadline = if has_deadline { DEADLINE_BYTES } else { 0 };
    1 + VERSION_BYTES + deadline + length_bytes(key_bytes) + value_bytes.map_or(0, length_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = vec![0xEE; record.len() + 3];
        record.write(&mut bytes);
        bytes
    }

    fn live<'a>(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
        Record {
            kind: Kind::Live,
            form: Form::Bare,
            version: 1,
            deadline: None,
            has_links: false,
            key,
            value: Stored::Here(value),
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let plain = live(b"k", b"[1]");
        assert_eq!(bytes_of(&plain)[..plain.len()], *b"\x01\x01\x01\x03k[1]");
        let full = Record {
            form: Form::Envelope,
            version: 300,
            deadline: Some(0x7f),
            has_links: true,
            value: Stored::Elsewhere(128),
            ..plain
        };
        assert_eq!(
            bytes_of(&full)[..full.len()],
            *b"\x3d\xac\x02\x7f\x01\x80\x01k"
        );
        let remembered = Record {
            kind: Kind::Remembered,
            deadline: Some(5),
            value: Stored::Here(b""),
            ..plain
        };
        assert_eq!(
            bytes_of(&remembered)[..remembered.len()],
            *b"\x0a\x01\x05\x01k"
        );
        let tombstone = Record {
            kind: Kind::Tombstone,
            value: Stored::Here(b""),
            ..plain
        };
        assert_eq!(bytes_of(&tombstone)[..tombstone.len()], *b"\x03\x01\x01k");
    }

    #[test]
    fn usual_lengths_are_those_of_usual_records() {
        for (key, value, deadline) in [
            (1, 1, None),
            (16, 60, None),
            (127, 127, Some(1 << 41)),
            (128, 128, Some(1 << 41)),
            (65_535, 4_096, None),
        ] {
            let (key, value) = (vec![b'k'; key], vec![b'v'; value]);
            let record = Record {
                version: 1 << 34,
                deadline,
                ..live(&key, &value)
            };
            let usual = usual_bytes(key.len(), Some(value.len()), deadline.is_some());
            assert_eq!(record.len(), usual);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            kind in 0..3_usize,
            (envelope, has_links, elsewhere) in any::<(bool, bool, bool)>(),
            (version, deadline, at) in any::<(u64, Option<u64>, u64)>(),
            key in prop::collection::vec(any::<u8>(), 1..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let kind = [Kind::Live, Kind::Remembered, Kind::Tombstone][kind];
            let record = Record {
                kind,
                form: if envelope { Form::Envelope } else { Form::Bare },
                version,
                deadline,
                has_links,
                key: &key,
                value: match kind {
                    Kind::Live if elsewhere => Stored::Elsewhere(at),
                    Kind::Live => Stored::Here(&value),
                    _ => Stored::Here(b""),
                },
            };
            let bytes = bytes_of(&record);
            prop_assert_eq!(Record::read(&bytes), Some(record));
            prop_assert_eq!(Record::key_of(&bytes), &key[..]);
            prop_assert_eq!(&bytes[record.len()..], [0xEE; 3]);
            for end in 0..record.len() {
                prop_assert_eq!(Record::read(&bytes[..end]), None, "cut at {}", end);
            }
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(record) = Record::read(&bytes) {
                prop_assert!(record.key.len() <= bytes.len());
            }
        }
    }
}
