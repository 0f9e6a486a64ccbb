//! The disk seam: the few verbs that the log needs, with one real and one nasty simulated
//! implementation.
//!
//! Paths are relative to the data dir and use `/`. A written byte is durable only after [`File::sync`];
//! a created, renamed or removed name only after [`Disk::sync_dir`] of its directory.

#[cfg(feature = "faults")]
mod faulty;
mod place;
mod real;
mod sim;

use std::io;

#[cfg(feature = "faults")]
pub use faulty::FaultyDisk;
pub use place::FileSystem;
pub use real::RealDisk;
pub use sim::{SimDisk, SimFault, SimOp};

use crate::error::Error;
use crate::planted::planted;

/// Holds a data dir for one process until it is dropped.
pub type Lock = Box<dyn Hold>;

/// What [`Disk::lock`] gives.
pub trait Hold: Send + Sync {
    /// Whether the path of the data dir still leads to the lock that is held. If not, the directory
    /// was moved or replaced, or the lock removed: another process may take what is there.
    ///
    /// # Errors
    /// What the system says; it is then unknown.
    fn in_place(&self) -> io::Result<bool>;
}

/// Names and files below one data dir.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory; an existing one is fine.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Opens a new file for writing and reading; an existing one loses its name first.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &str) -> io::Result<Box<dyn File>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is none.
    fn open(&self, path: &str) -> io::Result<Box<dyn File>>;
    /// Opens an existing file for [`File::punch`].
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is none.
    fn open_write(&self, path: &str) -> io::Result<Box<dyn File>>;
    /// Renames a file; an existing target is replaced.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The names in a directory, sorted; empty if it does not exist.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable; `""` is the data dir itself.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that this process can still take from the file system.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the data dir for this process.
    ///
    /// # Errors
    /// `WouldBlock` with the holder as its text if another process has it.
    fn lock(&self, path: &str) -> io::Result<Lock>;
}

/// An open file.
pub trait File: Send {
    /// Writes at an offset; may write less than asked.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says; afterwards it is unknown what is durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Reads at an offset; 0 at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;
    /// Asks the system to forget what it has of the file in memory, so that the next read is one of the
    /// disk. A wish: whoever cannot fulfil it does nothing.
    fn uncache(&self) {}
    /// Cuts the file.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Gives the blocks of a range back to the file system; it then reads as zeros.
    ///
    /// # Errors
    /// What the system says.
    fn punch(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// Writes all of `bytes`; short writes go on at the same offset, interrupted ones are repeated.
///
/// # Errors
/// What the system says; how much was written is then unknown.
pub fn write_full(file: &mut dyn File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) if planted("short-write-is-whole") => return Ok(()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills all of `bytes`; an early end of the file is an error.
///
/// # Errors
/// What the system says; `UnexpectedEof` if the file ends before.
pub fn read_full(file: &dyn File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = bytes.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a whole small file; `None` if there is none.
pub(crate) fn read_file(disk: &dyn Disk, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let unreadable = |source| Error::Unreadable {
        file: path.to_owned(),
        offset: 0,
        source,
    };
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let length = file.length().map_err(unreadable)?.min(limit);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    read_full(file.as_ref(), 0, &mut bytes).map_err(unreadable)?;
    Ok(Some(bytes))
}

/// Publishes a file in four moves: write `<path>.tmp`, sync, rename, sync the directory. After a
/// crash there is the old file or the new one, whole.
///
/// # Errors
/// The call that failed.
pub fn publish(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let tmp = format!("{path}.tmp");
    let mut file = disk.create(&tmp).map_err(Error::io("create", &tmp))?;
    write_full(file.as_mut(), 0, bytes).map_err(Error::io("write", &tmp))?;
    if !planted("published-unsynced") {
        file.sync().map_err(Error::io("sync", &tmp))?;
    }
    disk.rename(&tmp, path).map_err(Error::io("rename", path))?;
    if planted("published-name-unsynced") {
        return Ok(());
    }
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    disk.sync_dir(dir)
        .map_err(Error::io("sync directory of", path))
}
