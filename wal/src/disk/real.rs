//! The real disk: a directory of the file system.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;

use super::{Disk, File, Lock};

/// Files below one directory. Everything is made for the owner alone (0700, 0600).
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Directories that were synced once, kept open: with no descriptor left a sync would fail, and
    /// a failed sync ends the log.
    dirs: Mutex<BTreeMap<String, fs::File>>,
}

impl RealDisk {
    /// A disk whose root is an existing directory.
    ///
    /// # Errors
    /// What the system says; `NotADirectory` if it is none.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            root,
            dirs: Mutex::default(),
        })
    }

    /// A disk whose root is made if it is missing, durably: the parent directory is synced.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_root(root: &Path) -> io::Result<Self> {
        if !root.exists() {
            // From the outermost missing directory inwards.
            let missing: Vec<&Path> = root
                .ancestors()
                .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
                .collect();
            for dir in missing.into_iter().rev() {
                match DirBuilder::new().mode(0o700).create(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => {}
                }
                sync_parent(dir)?;
            }
        }
        let disk = Self::open(root)?;
        // Whoever made it, and whenever: a name that is not durable takes all that is below it along.
        // A parent that may not be opened is not ours to sync.
        match sync_parent(&disk.root) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(disk),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = fs::File::open(parent.unwrap_or(Path::new(".")))?;
    Ok(rustix::fs::fsync(&parent)?)
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        // A new file, never the old one emptied: whoever still has that one open must not share it.
        match fs::remove_file(self.path(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Box::new(RealFile(options.open(self.path(path))?)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(fs::File::open(self.path(path))?)))
    }

    fn open_write(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(path))?,
        )))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // A name that is not UTF-8 is none of ours; it is left alone.
        let mut names = entries
            .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
            .collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        match dirs.get(dir) {
            Some(open) => Ok(rustix::fs::fsync(open)?),
            None => {
                let open = fs::File::open(self.path(dir))?;
                rustix::fs::fsync(&open)?;
                dirs.insert(dir.to_owned(), open);
                Ok(())
            }
        }
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        let mut options = OpenOptions::new();
        // Not emptied before it is ours: it names the holder.
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(self.path(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The text is for a message only; without it the message is shorter.
                let _ = (&file).take(200).read_to_string(&mut holder);
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    holder.trim().to_owned(),
                ));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "process {}", std::process::id())?;
        Ok(Box::new(file))
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(&self.0, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        // Also makes a new length durable, not the times. Not by way of the standard library, which
        // repeats an interrupted call: what an interrupted sync has done is as unknown as a failed one's.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.0, bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn punch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, length) {
            // Some file systems cannot; the space is given back when the segment is removed.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }
}
