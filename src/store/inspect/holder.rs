//! Who has a data dir open, found out without taking it.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::Path;

use ekokv_wal::Error;

use crate::store::open::failure;
use crate::store::options::Failure;

/// The text of `lock` is for messages; it is short.
const HOLDER_BYTES_MAX: u64 = 200;

/// An error of reading `dir`, as the operator should read it: of files that somebody changes meanwhile it
/// says nothing about damage.
pub(super) fn refused(dir: &Path, error: Error) -> Failure {
    match holder(dir) {
        Some(holder) => Failure::Locked(format!(
            "{holder} has the data dir {} open, and its files change while they are read: ask again, or \
             stop it first",
            dir.display()
        )),
        None => failure(dir, error),
    }
}

/// The process that has `dir` open, `None` if none has. The lock is asked for, shared and for a moment,
/// so that a start at that very moment may find the data dir in use.
pub(super) fn holder(dir: &Path) -> Option<String> {
    let path = dir.join("lock");
    // A pipe would keep whoever opens it waiting.
    if !fs::metadata(&path).is_ok_and(|found| found.is_file()) {
        return None;
    }
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        // Given back with the file.
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = (&file).take(HOLDER_BYTES_MAX).read_to_string(&mut text);
            let text = text.trim();
            Some(if text.is_empty() {
                "another process".to_owned()
            } else {
                text.to_owned()
            })
        }
        // A file system without locks: a start could not use it either.
        Err(TryLockError::Error(_)) => None,
    }
}
