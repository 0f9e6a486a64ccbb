//! A handle with a tag, bits of the hash of its key: what leads to a record without reading others.
//!
//! | bits | |
//! | --- | --- |
//! | 63 to 40 | the tag: the highest bits of the hash of the key |
//! | 39 to 0 | handle of the record |

use super::arena::{HANDLE_BITS, Handle};

/// A handle, and the tag of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tagged(u64);

impl Tagged {
    pub(super) fn new(hash: u64, handle: Handle) -> Self {
        Self(hash >> HANDLE_BITS << HANDLE_BITS | handle.bits())
    }

    /// What [`Tagged::bits`] gave.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn handle(self) -> Handle {
        Handle::from_bits(self.0)
    }

    pub(super) fn tag(self) -> u64 {
        self.0 >> HANDLE_BITS
    }

    /// The same tag with another handle.
    pub(super) fn with(self, handle: Handle) -> Self {
        Self::new(self.0, handle)
    }

    /// Whether the key may have this hash. One in 16 million others fits by chance.
    pub(super) fn fits(self, hash: u64) -> bool {
        self.tag() == hash >> HANDLE_BITS
    }
}
