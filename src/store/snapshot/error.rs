//! What can be wrong with a snapshot, classed by what recovery does about it.

use std::fmt;
use std::io;

use ekokv_wal::{Damage, Error};

use crate::state::Fingerprint;

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(in crate::store) enum Bad {
    /// Bytes are not what was written, or the disk does not hand them over: the generation before
    /// serves.
    Damaged(Damage),
    /// It is whole and not for this store, or for a newer program: nothing serves in its place.
    Foreign(Damage),
    /// This process could not read it just now, which says nothing about the file.
    Passing(Damage, io::ErrorKind),
}

impl Bad {
    /// Damage at an offset of a file.
    pub(super) fn damaged(path: &str, offset: u64, reason: impl Into<String>) -> Self {
        Self::Damaged(damage(path, offset, reason.into()))
    }

    /// A file that is not for this store or this program.
    pub(in crate::store) fn foreign(path: &str, reason: impl Into<String>) -> Self {
        Self::Foreign(damage(path, 0, reason.into()))
    }

    /// A file that the disk does not hand over.
    pub(super) fn unreadable(path: &str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let reason = format!("it cannot be read: {error}");
            let damage = damage(path, offset, reason);
            if is_passing(&error) {
                Self::Passing(damage, error.kind())
            } else {
                Self::Damaged(damage)
            }
        }
    }

    /// A new snapshot that is not what the live state was.
    pub(in crate::store) fn unlike(path: &str, made: &Fingerprint, live: &Fingerprint) -> Self {
        Self::damaged(
            path,
            0,
            format!(
                "the log and the snapshot before make {made:?}, and the live state was {live:?}"
            ),
        )
    }

    /// What is wrong, and where.
    pub(in crate::store) fn damage(&self) -> &Damage {
        match self {
            Self::Damaged(damage) | Self::Foreign(damage) | Self::Passing(damage, _) => damage,
        }
    }
}

/// Whether an error comes from what the process may have or do, and not from the disk.
pub(in crate::store) fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::INTR,
        Errno::AGAIN,
        Errno::ACCESS,
    ];
    let code = error.raw_os_error();
    passing
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.damage().fmt(f)
    }
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Damaged(damage) | Bad::Foreign(damage) => Self::Damaged(damage),
            Bad::Passing(damage, kind) => {
                Self::io("read", &damage.file)(io::Error::new(kind, damage.reason))
            }
        }
    }
}

fn damage(path: &str, offset: u64, reason: String) -> Damage {
    Damage {
        file: path.to_owned(),
        offset,
        batch: None,
        last_sequence: None,
        reason,
    }
}
