//! The directory that is written into, and that goes in the end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::store::Failure;

/// What makes a directory a data dir.
const STORE_NAMES: [&str; 4] = ["CURRENT", "wal", "snapshots", "jwt-secret"];

/// A directory below the one that was named; removed when it is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        if !dir.is_dir() {
            return Err(Failure::Settings(format!("{shown} is no directory")));
        }
        if STORE_NAMES.iter().any(|name| dir.join(name).exists()) {
            return Err(Failure::Settings(format!(
                "{shown} holds a store: name another directory on the same disk"
            )));
        }
        let path = dir.join(format!("ekokv-torture-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            Failure::Settings(format!("cannot make {}: {error}", path.display()))
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot be removed");
        }
    }
}
