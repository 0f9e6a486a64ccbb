//! Fences: the keys that part neighbours in a row of children from each other.
//!
//! What always holds: fences ascend; a child holds the keys from the fence before it up to the one behind
//! it, the former included. A row of *n* children has *n* − 1 fences.
//!
//! A search looks at eight bytes of each fence, those behind the beginning that all of them share: these lie
//! side by side, so it costs few cache misses. Only fences that are equal in these bytes are compared whole.

use std::cmp::Ordering;
use std::ops::Deref;

/// What fences begin with is kept beside their heads up to this length.
const SHORT_BYTES_MAX: usize = 22;

/// The fences of one row.
#[derive(Default)]
pub(super) struct Fences {
    /// What all fences begin with.
    shared: Shared,
    /// The eight bytes behind it, filled up with zeros: as a number, the earlier byte counts more.
    heads: Vec<u64>,
    keys: Vec<Box<[u8]>>,
}

/// A beginning; a search compares it, so a short one lies where the search is already.
enum Shared {
    Short {
        length: u8,
        bytes: [u8; SHORT_BYTES_MAX],
    },
    Long(Box<[u8]>),
}

impl Default for Shared {
    fn default() -> Self {
        Self::Short {
            length: 0,
            bytes: [0; SHORT_BYTES_MAX],
        }
    }
}

impl From<&[u8]> for Shared {
    fn from(beginning: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match bytes.get_mut(..beginning.len()) {
            Some(place) => {
                place.copy_from_slice(beginning);
                let length = beginning.len() as u8;
                Self::Short { length, bytes }
            }
            None => Self::Long(beginning.into()),
        }
    }
}

impl Deref for Shared {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl Fences {
    /// The child to which `key` belongs.
    #[inline]
    pub(super) fn child(&self, key: &[u8]) -> usize {
        let shared = self.shared.len();
        let begins = key.get(..shared).unwrap_or(key);
        match begins.cmp(&self.shared) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.heads.len(),
            Ordering::Equal => {}
        }
        let head = head(key, shared);
        let at = self.heads.partition_point(|other| *other < head);
        if self.heads.get(at) != Some(&head) {
            return at;
        }
        let keys = self.keys.get(at..).unwrap_or_default();
        let heads = self.heads.get(at..).unwrap_or_default();
        let equal = heads.partition_point(|other| *other == head);
        let keys = keys.get(..equal).unwrap_or_default();
        at + keys.partition_point(|fence| **fence <= *key)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Puts a fence behind child `at`, whose part behind the fence becomes child `at + 1`.
    pub(super) fn insert(&mut self, at: usize, fence: Box<[u8]>) {
        let at = at.min(self.keys.len());
        if self.keys.is_empty() {
            self.shared = (&*fence).into();
        }
        let shared = shared_bytes(&self.shared, &fence);
        if shared < self.shared.len() {
            self.shared = fence.get(..shared).unwrap_or_default().into();
            for (head_of, key) in self.heads.iter_mut().zip(&self.keys) {
                *head_of = head(key, shared);
            }
        }
        self.heads.insert(at, head(&fence, shared));
        self.keys.insert(at, fence);
    }

    /// Takes out the fence between child `at` and the one behind it.
    pub(super) fn remove(&mut self, at: usize) -> Option<Box<[u8]>> {
        if at >= self.keys.len() {
            return None;
        }
        self.heads.remove(at);
        Some(self.keys.remove(at))
    }

    /// Keeps the fences of the first `children`, of which there is at least one and not all. Returns the
    /// fence that parts the rows now, and the fences of the rest.
    pub(super) fn split_off(&mut self, children: usize) -> (Box<[u8]>, Self) {
        let mut kept = std::mem::take(&mut self.keys);
        let rest = kept.split_off(children.min(kept.len()));
        let between = kept.pop().unwrap_or_default();
        *self = Self::of(kept);
        (between, Self::of(rest))
    }

    /// Appends another row, parted from this one by `between`.
    pub(super) fn append(&mut self, between: Box<[u8]>, other: Self) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.push(between);
        keys.extend(other.keys);
        *self = Self::of(keys);
    }

    fn of(keys: Vec<Box<[u8]>>) -> Self {
        let shared = match (keys.first(), keys.last()) {
            // They ascend, so what the first and the last share all of them do.
            (Some(first), Some(last)) => shared_bytes(first, last),
            _ => 0,
        };
        Self {
            shared: keys
                .first()
                .and_then(|first| first.get(..shared))
                .unwrap_or_default()
                .into(),
            heads: keys.iter().map(|key| head(key, shared)).collect(),
            keys,
        }
    }
}

/// The shortest key that is above `before` and not above `behind`.
pub(super) fn fence_between(before: &[u8], behind: &[u8]) -> Box<[u8]> {
    let shared = shared_bytes(before, behind);
    behind.get(..=shared).unwrap_or(behind).into()
}

/// How many bytes both begin with.
pub(super) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The eight bytes of `key` behind the first `shared`, filled up with zeros: as a number, the earlier byte
/// counts more.
#[inline]
pub(super) fn head(key: &[u8], shared: usize) -> u64 {
    let rest = key.get(shared..).unwrap_or_default();
    if let Some(head) = rest.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    for (place, byte) in head.iter_mut().zip(rest) {
        *place = *byte;
    }
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 13] = [
        "a",
        "a\u{0}",
        "ab",
        "abc",
        "abcdefgh",
        "abcdefgh\u{0}",
        "abcdefgha",
        "abcdefghijklmnop",
        "abcdefghijklmnoq",
        "abcdefgi",
        "b",
        "ba",
        "\u{e4}",
    ];

    fn of(keys: &[&str]) -> Fences {
        Fences::of(keys.iter().map(|key| key.as_bytes().into()).collect())
    }

    fn check(fences: &Fences, keys: &[&str]) {
        assert_eq!(fences.len(), keys.len());
        for key in KEYS
            .iter()
            .chain(&["", "0", "aa", "abcdefg", "abcdefghi", "c"])
        {
            let expected = keys.iter().filter(|fence| *fence <= key).count();
            assert_eq!(
                fences.child(key.as_bytes()),
                expected,
                "{key:?} among {keys:?}"
            );
        }
    }

    #[test]
    fn a_key_belongs_behind_the_last_fence_that_is_not_above_it() {
        for from in 0..KEYS.len() {
            for to in from..=KEYS.len() {
                check(&of(&KEYS[from..to]), &KEYS[from..to]);
            }
        }
    }

    #[test]
    fn fences_come_and_go_in_any_order() {
        for step in [1, 2, 5, 7, 12] {
            let mut fences = Fences::default();
            let mut keys: Vec<&str> = Vec::new();
            let order = || (0..KEYS.len()).map(|n| KEYS[n * step % KEYS.len()]);
            for key in order() {
                let at = keys.partition_point(|other| *other < key);
                fences.insert(at, key.as_bytes().into());
                keys.insert(at, key);
                check(&fences, &keys);
            }
            for key in order() {
                let at = keys.partition_point(|other| *other < key);
                assert_eq!(fences.remove(at).as_deref(), Some(key.as_bytes()));
                keys.remove(at);
                check(&fences, &keys);
            }
            assert_eq!(fences.remove(0), None);
        }
    }

    #[test]
    fn a_row_is_parted_and_put_together_again() {
        for children in 1..=KEYS.len() {
            let mut fences = of(&KEYS);
            let (between, rest) = fences.split_off(children);
            check(&fences, &KEYS[..children - 1]);
            assert_eq!(&*between, KEYS[children - 1].as_bytes());
            check(&rest, &KEYS[children..]);
            fences.append(between, rest);
            check(&fences, &KEYS);
        }
    }

    #[test]
    fn a_fence_is_as_short_as_it_may_be() {
        for (before, behind, fence) in [
            ("a", "b", "b"),
            ("abc", "abd", "abd"),
            ("abc", "abdxyz", "abd"),
            ("abc", "abcd", "abcd"),
            ("abc", "abcdef", "abcd"),
            ("", "xyz", "x"),
        ] {
            let found = fence_between(before.as_bytes(), behind.as_bytes());
            assert_eq!(&*found, fence.as_bytes(), "{before} {behind}");
        }
    }
}
