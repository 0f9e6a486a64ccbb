//! What can stop the log, classed by what the reader will do about it.

use std::fmt;
use std::io;

/// Where acknowledged data may be lost, and why the log says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// File below the data dir.
    pub file: String,
    /// Offset in bytes of the first place that does not verify.
    pub offset: u64,
    /// The batch that should be there.
    pub batch: Option<u64>,
    /// The last sequence that is safely read; what may be lost lies behind it.
    pub last_sequence: Option<u64>,
    /// What is wrong, as a sentence.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {}: {}",
            self.file, self.offset, self.reason
        )?;
        if let Some(batch) = self.batch {
            write!(f, "; batch {batch}")?;
        }
        if let Some(sequence) = self.last_sequence {
            write!(
                f,
                "; changes up to sequence {sequence} are readable, later ones may be lost"
            )?;
        }
        Ok(())
    }
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Acknowledged data may be lost: refuse to start.
    #[error("{0}")]
    Damaged(Damage),
    /// The disk did not hand over bytes that are needed.
    #[error("{file} at offset {offset} cannot be read: {source}")]
    Unreadable {
        /// File below the data dir.
        file: String,
        /// Offset in bytes.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A call on a file or directory failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// File below the data dir.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A batch does not fit into an empty segment.
    #[error("a batch of {bytes} bytes does not fit into a segment of {segment_bytes} bytes")]
    TooLarge {
        /// Encoded length of the batch.
        bytes: u64,
        /// Length of a segment.
        segment_bytes: u64,
    },
    /// An earlier write or sync failed; nothing is written any more.
    #[error("the log is closed: an earlier write or sync failed")]
    Latched,
}

impl Error {
    /// Whether a call failed for want of room on the disk.
    #[must_use]
    pub fn is_for_room(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// What makes an [`Error::Io`] of what the system said of `operation` on `path`.
    pub fn io(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}
