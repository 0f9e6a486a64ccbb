//! What the compactor asks of the owner.

use std::sync::mpsc::SyncSender;

use ekokv_wal::Predecessor;

use super::logged::Amounts;
use crate::state::{Fingerprint, Kept, Key};

/// A chore; whoever asked waits for the reply, and takes its absence for the end of the store.
pub(super) enum Chore {
    /// End the segment here.
    Rotate {
        /// Write `CURRENT` anew even if there is nothing to end.
        renew: bool,
        /// Where it ended.
        reply: SyncSender<Result<Rotated, NotNow>>,
    },
    /// The next keys behind this one, as they are now.
    Keys {
        /// `None`: from the first one on.
        after: Option<Key>,
        /// The keys; none at the end.
        reply: SyncSender<Vec<(Key, Kept)>>,
    },
}

/// The log goes on in another segment.
pub(super) struct Rotated {
    /// Where the one before ends: all up to here is synced.
    pub(super) end: Option<Predecessor>,
    /// What the state holds there.
    pub(super) fingerprint: Fingerprint,
    /// Store time there, in milliseconds since the Unix epoch.
    pub(super) time: u64,
    /// What was logged since the rotation before.
    pub(super) logged: Amounts,
}

/// The next segment is not ready, or `CURRENT` could not be written anew: ask again in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotNow;

/// What the committer needs to answer a rotation.
pub(super) struct Ticket {
    pub(super) fingerprint: Fingerprint,
    pub(super) time: u64,
    /// `CURRENT` is to be written anew in any case.
    pub(super) renew: bool,
    pub(super) reply: SyncSender<Result<Rotated, NotNow>>,
}
