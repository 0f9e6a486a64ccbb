//! What the store is told when it opens, and what it says back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::compactor::{Schedule, Scrub};
use super::handle::{Store, Threads};
use crate::clock::Clock;

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the log is synced.
    Always,
    /// After write(2); synced at least this often while there are writes.
    Interval(Duration),
    /// After write(2); synced when a segment is full and at a clean stop.
    Os,
}

impl Durability {
    pub(super) fn mode(self) -> ekokv_wal::Mode {
        match self {
            Self::Always => ekokv_wal::Mode::Always,
            Self::Interval(_) => ekokv_wal::Mode::Interval,
            Self::Os => ekokv_wal::Mode::Os,
        }
    }
}

/// What a change takes in the log beyond its key and value: record header, kind, flags, deadline,
/// key length; rounded up.
const CHANGE_OVERHEAD_BYTES: u64 = 32;

/// Whether a log segment of `segment_bytes` holds the largest request that the other limits allow; if
/// not, how long a segment would have to be.
///
/// # Errors
/// The length that is needed, in bytes.
pub fn fits_segment(
    segment_bytes: u64,
    max_body_bytes: u64,
    max_batch_keys: u64,
    max_key_bytes: u64,
) -> Result<(), u64> {
    let needed = segment_bytes_needed(max_body_bytes, max_batch_keys, max_key_bytes);
    if needed > segment_bytes {
        Err(needed)
    } else {
        Ok(())
    }
}

/// The smallest segment, in bytes, that holds the largest request.
pub(super) fn segment_bytes_needed(
    max_body_bytes: u64,
    max_batch_keys: u64,
    max_key_bytes: u64,
) -> u64 {
    // A body holds keys and values as JSON; in the log each of them has an overhead of its own.
    let largest = max_batch_keys
        .saturating_mul(CHANGE_OVERHEAD_BYTES)
        .saturating_add(max_body_bytes)
        .saturating_add(max_key_bytes)
        .saturating_add(CHANGE_OVERHEAD_BYTES);
    ekokv_wal::segment_bytes_needed(largest)
}

/// What the store needs to know to open a data dir.
pub struct Options {
    /// The data dir; created with mode 0700 if missing.
    pub data_dir: PathBuf,
    /// When a write is answered.
    pub durability: Durability,
    /// Length of a log segment in bytes.
    pub segment_bytes: u64,
    /// Beyond this estimate of the state's memory, in bytes, writes that grow it are refused.
    pub max_memory_bytes: u64,
    /// How long an expired key is remembered.
    pub expired_retention: Duration,
    /// The largest request body in bytes: the log makes room for it.
    pub max_body_bytes: u64,
    /// The most keys of one batch.
    pub max_batch_keys: u64,
    /// The longest key in bytes.
    pub max_key_bytes: u64,
    /// An admin key that replaces the bootstrap admin key.
    pub admin_key: Option<String>,
    /// When the log is folded into snapshots.
    pub schedule: Schedule,
    /// How sealed files are looked over.
    pub scrub: Scrub,
    /// How long a leap of the wall clock that nothing confirms must hold before it counts.
    pub clock_grace: Duration,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// The runtime whose workers call the store, if it has more than one: then the handler of a writer that
    /// is alone may wait for the disk itself.
    pub workers: Option<Handle>,
}

/// A store that is open, and what its owner must do with it.
pub struct Opened {
    /// The handle that handlers clone.
    pub store: Store,
    /// The threads behind it.
    pub threads: Threads,
    /// Secret under which tokens are signed.
    pub jwt_secret: Vec<u8>,
    /// The admin key, if this start made it.
    pub new_admin_key: Option<String>,
}

/// Why a data dir could not be opened, or the store ended; each class has its exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Exit 65: the data is damaged; says file, offset and the command that helps.
    #[error("{0}")]
    Damaged(String),
    /// Exit 74: a read, write or sync failed.
    #[error("{0}")]
    Storage(String),
    /// Exit 75: another process holds the data dir.
    #[error("{0}")]
    Locked(String),
    /// Exit 78: the settings do not fit the data or the machine.
    #[error("{0}")]
    Settings(String),
}

/// What `/api/health` says of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Something needs the operator's eye; serving goes on.
    pub degraded: bool,
    /// No damage is known that is not repaired on disk.
    pub integrity_ok: bool,
}
