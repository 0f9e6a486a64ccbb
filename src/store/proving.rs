//! A store without its threads, for tests that read and start very many of them. Nothing else calls it,
//! and it is no part of what the crate offers.

use std::sync::Arc;

use ekokv_wal::{Damage, Disk, Error, Log, Options, Recovered};

use super::open::{clean_up, go_on};
use super::recovery::{self, Loaded, LoadedStore};
use crate::state::State;

/// A store as a start reads it.
pub struct Standing(Box<LoadedStore>);

impl Standing {
    /// What it holds.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// The log as it was found.
    #[must_use]
    pub fn log(&self) -> &Recovered {
        &self.0.log
    }

    /// Snapshots that are damaged and that nothing needs.
    #[must_use]
    pub fn broken(&self) -> &[Damage] {
        &self.0.broken
    }

    /// Why the older generation could not be fallen back on, if there is one.
    #[must_use]
    pub fn older_unusable(&self) -> Option<&Error> {
        self.0.older_unusable.as_ref()
    }
}

/// Reads a data dir as a start does; `None` if there is no store yet.
///
/// # Errors
/// As a start refuses it.
pub fn read(disk: &dyn Disk, retention_ms: u64) -> Result<Option<Standing>, Error> {
    Ok(match recovery::read(disk, retention_ms)? {
        Loaded::Nothing => None,
        Loaded::Store(found) => Some(Standing(found)),
    })
}

/// Makes every change that a start makes to a data dir, and returns the log that it would write to.
///
/// # Errors
/// The call that failed.
pub fn start(disk: &Arc<dyn Disk>, standing: Standing, options: Options) -> Result<Log, Error> {
    let time = standing.0.time;
    let (log, _) = go_on(disk, *standing.0, options, time)?;
    clean_up(disk.as_ref());
    Ok(log)
}
