//! What a start would make of a data dir, in numbers.

use std::path::Path;

use ekokv_wal::Disk;

use super::place::{no_store, open};
use crate::state::Fingerprint;
use crate::store::open::failure;
use crate::store::options::Failure;
use crate::store::recovery::{self, Loaded};

/// What a start would serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The keys, values, links and API keys.
    pub fingerprint: Fingerprint,
    /// The last sequence.
    pub last_sequence: u64,
    /// Whether something had to be rebuilt from parity, a second copy or an older generation.
    pub repaired: bool,
}

/// Reads a data dir as a start does.
///
/// # Errors
/// As a start would refuse it.
pub fn examine(dir: &Path) -> Result<Contents, Failure> {
    let disk = open(dir)?;
    let disk: &dyn Disk = &disk;
    // Nothing becomes due here, so the retention does not matter.
    match recovery::read(disk, u64::MAX).map_err(|error| failure(dir, error))? {
        Loaded::Nothing => Err(no_store(dir)),
        Loaded::Store(store) => Ok(Contents {
            fingerprint: store.state.fingerprint(),
            last_sequence: store.log.position.sequence,
            repaired: !store.log.repairs.is_empty()
                || !store.broken.is_empty()
                || store.older_unusable.is_some(),
        }),
    }
}
