//! The generations on disk: snapshots with the log behind each, and what is done with files that no
//! generation needs.
//!
//! What always holds: a file is removed or set aside only after a snapshot that makes it superfluous
//! was published.

use std::sync::Arc;

use ekokv_wal::{Disk, Error, Predecessor, planted, segment_numbers, segment_path};

use crate::store::snapshot::{DIR, TMP_SUFFIX, path_of, sequence_of_name};

/// So many generations are kept: the newest one, and one to fall back on.
const GENERATIONS: usize = 2;
/// What the name of a damaged file ends with once it is set aside.
const BROKEN_SUFFIX: &str = ".broken";

/// One snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Generation {
    /// Where in the log it ends.
    pub(in crate::store) end: Predecessor,
    /// Length of its file in bytes.
    pub(in crate::store) bytes: u64,
}

impl Generation {
    /// Its last sequence; the file's name.
    pub(in crate::store) fn sequence(&self) -> u64 {
        self.end.position.sequence
    }

    pub(in crate::store) fn path(&self) -> String {
        path_of(self.sequence())
    }
}

/// The generations that a start could use, newest first.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Generations(Vec<Generation>);

impl Generations {
    pub(in crate::store) fn new(newest_first: Vec<Generation>) -> Self {
        Self(newest_first)
    }

    pub(super) fn newest(&self) -> Option<&Generation> {
        self.0.first()
    }

    pub(super) fn older(&self) -> Option<&Generation> {
        self.0.get(1)
    }

    /// Puts a generation in front. One of the same sequence has been replaced by it.
    pub(super) fn publish(&mut self, generation: Generation) {
        self.0
            .retain(|other| other.sequence() != generation.sequence());
        self.0.insert(0, generation);
    }

    /// Gives up all but the newest.
    pub(super) fn give_up_older(&mut self) {
        self.0.truncate(1);
    }

    /// Removes the files that no generation needs. With a single generation the log before it is kept
    /// too, for it is a generation of its own, unless `only_newest` says that nothing is to be fallen
    /// back on.
    ///
    /// # Errors
    /// The first call that failed. What is left is removed another time, never before the names of the
    /// generations are durable.
    pub(super) fn retire(&mut self, disk: &dyn Disk, only_newest: bool) -> Result<(), Error> {
        if only_newest {
            self.give_up_older();
        }
        self.0.truncate(GENERATIONS);
        // A start may have found a name that a crash kept from being synced.
        if !planted("snapshot-name-unsynced") && !planted("retired-before-names-are-synced") {
            disk.sync_dir(DIR).map_err(Error::io("sync", DIR))?;
        }
        for name in disk.list(DIR).map_err(Error::io("list", DIR))? {
            let kept = |sequence| self.0.iter().any(|g| g.sequence() == sequence);
            if sequence_of_name(&name).is_some_and(|sequence| !kept(sequence)) {
                remove(disk, &format!("{DIR}/{name}"))?;
            }
        }
        let covered = match (self.newest(), self.older()) {
            (Some(newest), _) if only_newest || planted("one-generation-too-many-retired") => {
                newest.end.number
            }
            (_, Some(older)) => older.end.number,
            _ => 0,
        };
        for number in segment_numbers(disk)? {
            if number <= covered {
                remove(disk, &segment_path(number))?;
            }
        }
        Ok(())
    }
}

fn remove(disk: &dyn Disk, path: &str) -> Result<(), Error> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        // Needs no sync: a file whose name comes back is removed another time.
        _ => Ok(()),
    }
}

/// Renames a damaged file so that nothing reads it and a person can look at it.
///
/// # Errors
/// The call that failed.
pub(in crate::store) fn set_aside(disk: &Arc<dyn Disk>, path: &str) -> Result<(), Error> {
    let aside = format!("{path}{BROKEN_SUFFIX}");
    match disk.rename(path, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("set aside", path)(error)),
        Ok(()) => {
            tracing::warn!(
                file = path,
                as_file = aside,
                "a damaged file is set aside; nothing needs it, remove it when it has been looked at"
            );
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            disk.sync_dir(dir).map_err(Error::io("sync", dir))
        }
    }
}

/// Removes what an earlier run did not finish.
pub(in crate::store) fn remove_unfinished(disk: &dyn Disk) {
    // What cannot be listed or removed is in nobody's way: it is never read.
    for name in disk.list(DIR).unwrap_or_default() {
        if name.ends_with(TMP_SUFFIX) {
            let _ = disk.remove(&format!("{DIR}/{name}"));
        }
    }
}
