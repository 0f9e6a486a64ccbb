//! Who has a data dir open, found out without taking it.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::Path;

/// The text of `lock` is for messages; it is short.
const HOLDER_BYTES_MAX: u64 = 200;

/// The process that has `dir` open, `None` if none has. The lock is asked for, shared and for a moment,
/// so that a start at that very moment may find the data dir in use.
pub(super) fn holder(dir: &Path) -> Option<String> {
    let file = File::open(dir.join("lock")).ok()?;
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
