//! The bytes of a value on their way: lent, or shared.

use std::ops::Deref;

use bytes::Bytes;

/// A longer value is shared by those who hold it; others are copied.
pub(super) const COPIED_BYTES_MAX: usize = 4 << 10;

/// The JSON text of a value, wherever it lies. Values are equal if their bytes are.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// In a buffer of somebody else's.
    Lent(&'a [u8]),
    /// In a buffer of its own, which can be held without copying it.
    Shared(&'a Bytes),
}

impl Value<'_> {
    /// The same bytes to be held: a copy of exactly their length, or the shared buffer.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Lent(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => bytes.clone(),
        }
    }
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Value<'_> {}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Lent(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Lent(bytes)
    }
}

impl<'a> From<&'a Bytes> for Value<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Self::Shared(bytes)
    }
}
