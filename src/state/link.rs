//! Links from a key to documents of other collections.
//!
//! A key's links are in byte order of collection and record id, and each document is there once.

use bytes::Bytes;

use super::digest;

/// One link as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The document's collection.
    pub collection: Box<str>,
    /// The document's id.
    pub record_id: Box<str>,
    /// JSON text; `None` is `{}`.
    pub metadata: Option<Bytes>,
    /// When it was first linked, in milliseconds since the Unix epoch.
    pub created_at: u64,
}

impl Link {
    fn bytes(&self) -> u64 {
        link_bytes(&self.collection, &self.record_id, self.metadata.as_deref())
    }

    fn digest(&self) -> u128 {
        let metadata = self.metadata.as_deref();
        digest::of_link(&self.collection, &self.record_id, self.created_at, metadata)
    }

    fn document(&self) -> (&str, &str) {
        (&self.collection, &self.record_id)
    }
}

/// The links of one key. Few keys have any, so they lie beside the records.
/// What all of them add up to is kept, so that a change costs no more than the link it is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links(Option<Box<List>>);

/// No links.
pub(super) static NO_LINKS: Links = Links(None);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct List {
    links: Vec<Link>,
    bytes: u64,
    digest: u128,
}

impl List {
    fn add(&mut self, link: &Link) {
        self.bytes = self.bytes.saturating_add(link.bytes());
        self.digest = self.digest.wrapping_add(link.digest());
    }

    fn take_off(&mut self, link: &Link) {
        self.bytes = self.bytes.saturating_sub(link.bytes());
        self.digest = self.digest.wrapping_sub(link.digest());
    }
}

impl Links {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Link] {
        self.0.as_ref().map_or(&[], |list| list.links.as_slice())
    }

    /// The link to one document.
    #[must_use]
    pub fn get(&self, collection: &str, record_id: &str) -> Option<&Link> {
        let links = self.as_slice();
        let at = links.binary_search_by(|link| link.document().cmp(&(collection, record_id)));
        links.get(at.ok()?)
    }

    /// An estimate of the memory that they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |list| list.bytes)
    }

    /// What they add to the state's digest: the sum of a hash of each.
    pub(super) fn digest(&self) -> u128 {
        self.0.as_ref().map_or(0, |list| list.digest)
    }

    /// Puts a link in the place of the one to the same document, if there is one.
    pub(super) fn insert(&mut self, link: Link) {
        let list = self.0.get_or_insert_default();
        list.add(&link);
        let found = list
            .links
            .binary_search_by(|other| other.document().cmp(&link.document()));
        match found {
            Ok(at) => {
                if let Some(place) = list.links.get_mut(at) {
                    let old = std::mem::replace(place, link);
                    list.take_off(&old);
                }
            }
            Err(at) => list.links.insert(at, link),
        }
    }

    /// Removes the link to one document; whether there was one.
    pub(super) fn remove(&mut self, collection: &str, record_id: &str) -> bool {
        let Some(list) = self.0.as_mut() else {
            return false;
        };
        let document = (collection, record_id);
        let found = list
            .links
            .binary_search_by(|link| link.document().cmp(&document));
        let Ok(at) = found else {
            return false;
        };
        let old = list.links.remove(at);
        list.take_off(&old);
        if list.links.is_empty() {
            self.0 = None;
        }
        true
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<I: IntoIterator<Item = Link>>(iter: I) -> Self {
        let mut links = Self::default();
        iter.into_iter().for_each(|link| links.insert(link));
        links
    }
}

/// What one link takes, in bytes: its place in a list that doubles when it is full, and up to three
/// buffers of their own.
pub(super) fn link_bytes(collection: &str, record_id: &str, metadata: Option<&[u8]>) -> u64 {
    const ALLOCATIONS_BYTES: usize = 3 * 16;
    let texts = collection.len() + record_id.len() + metadata.map_or(0, <[u8]>::len);
    (2 * size_of::<Link>() + ALLOCATIONS_BYTES + texts) as u64
}
