//! The real disk: a directory of the file system.
//!
//! What always holds: every name is looked up in the directory that was opened, whatever its path
//! leads to by now. A directory that is put in its place is never touched.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Access, Advice, AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::place::FileSystem;
use super::{Disk, File, Hold, Lock};

/// A lock that is held is asked for again so often.
const LOCK_TRIES: u32 = 5;
/// After so long each.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Files below one directory. Everything is made for the owner alone (0700, 0600).
#[derive(Debug)]
pub struct RealDisk {
    /// The path without links, as it was when the directory was opened.
    path: PathBuf,
    root: fs::File,
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
        let path = fs::canonicalize(root)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))?;
        Ok(Self {
            path,
            root: root.into(),
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
        match sync_parent(&disk.path) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(disk),
        }
    }

    /// Whether this process may make, rename and remove names in the root; nothing is made to find
    /// out. A file system that is mounted read-only says so here.
    ///
    /// # Errors
    /// What the system says: `PermissionDenied`, `ReadOnlyFilesystem`.
    pub fn check_writable(&self) -> io::Result<()> {
        let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        // Without flags, which need a newer system call that some containers forbid: real and
        // effective user are the same.
        Ok(rustix::fs::accessat(
            &self.root,
            ".",
            access,
            AtFlags::empty(),
        )?)
    }

    /// The user id that a file belongs to, `None` if there is no such file.
    ///
    /// # Errors
    /// What the system says.
    pub fn owner(&self, path: &str) -> io::Result<Option<u32>> {
        match rustix::fs::statat(&self.root, name(path), AtFlags::empty()) {
            Ok(stat) => Ok(Some(stat.st_uid)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What kind of file system the root lies on.
    ///
    /// # Errors
    /// What the system says.
    pub fn file_system(&self) -> io::Result<FileSystem> {
        let kind = rustix::fs::fstatfs(&self.root)?.f_type;
        // The kernel's numbers have 32 bits; the field is wider or narrower by machine.
        Ok(FileSystem::of_magic(kind as u32))
    }

    fn open_file(&self, path: &str, flags: OFlags) -> io::Result<fs::File> {
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = retry_on_intr(|| rustix::fs::openat(&self.root, name(path), flags, mode))?;
        Ok(file.into())
    }

    /// Opens what is a file and nothing else. The opening of a pipe waits for somebody at its other end,
    /// and that of a device may do anything, so neither is tried.
    fn open_regular(&self, path: &str, flags: OFlags) -> io::Result<fs::File> {
        let stat = rustix::fs::statat(&self.root, name(path), AtFlags::empty())?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.open_file(path, flags),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotSeekable,
                "it is no file but a pipe, a socket or a device",
            )),
        }
    }
}

/// A path below the root as the system takes it.
fn name(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = fs::File::open(parent.unwrap_or(Path::new(".")))?;
    Ok(rustix::fs::fsync(&parent)?)
}

impl RealDisk {
    /// Whether an open directory still has its name: another one may have taken its place, and it is
    /// the names in that one that count.
    fn is_still(&self, dir: &str, open: &fs::File) -> bool {
        let named = rustix::fs::statat(&self.root, name(dir), AtFlags::empty());
        match (named, rustix::fs::fstat(open)) {
            (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
            // With no descriptor left both fail, and the one that is open serves.
            (Err(_), _) | (_, Err(_)) => true,
        }
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root, name(path), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        // A new file, never the old one emptied: whoever still has that one open must not share it.
        match self.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(Box::new(RealFile(self.open_file(path, flags)?)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(self.open_regular(path, OFlags::RDONLY)?)))
    }

    fn open_write(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(self.open_regular(path, OFlags::RDWR)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &self.root,
            name(from),
            &self.root,
            name(to),
        )?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.root,
            name(path),
            AtFlags::empty(),
        )?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match self.open_file(dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => Dir::new(open)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours; it is left alone.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        match dirs.get(dir).filter(|open| self.is_still(dir, open)) {
            Some(open) => Ok(rustix::fs::fsync(open)?),
            None => {
                let open = self.open_file(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::fsync(&open)?;
                dirs.insert(dir.to_owned(), open);
                Ok(())
            }
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        // What is kept back for the superuser does not count.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        // The directory itself as well, for the file's name may be removed. Some network file systems lock no
        // directories; there the file must do.
        let directory = self.open_file("", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let has_directory = !matches!(try_lock(&directory), Err(fs::TryLockError::WouldBlock));
        // Not emptied before it is ours: it names the holder.
        let opened = match self.open_regular(path, OFlags::RDWR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open_file(path, OFlags::RDWR | OFlags::CREATE)
            }
            opened => opened,
        };
        let mut file = match opened {
            Err(_) if !has_directory => return Err(io::ErrorKind::WouldBlock.into()),
            opened => opened?,
        };
        match try_lock(&file) {
            Ok(()) if has_directory => {}
            Ok(()) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "a process that has locked the directory itself",
                ));
            }
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
        Ok(Box::new(RealLock {
            file,
            _directory: directory,
            path: self.path.join(path),
        }))
    }
}

/// Locks a file or directory; asks again for a while, as a tool that asks who has the data dir holds the lock for
/// a moment.
fn try_lock(file: &fs::File) -> Result<(), fs::TryLockError> {
    let mut taken = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(taken, Err(fs::TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        taken = file.try_lock();
    }
    taken
}

/// A locked file, and the path under which others would look for it; and the directory it is in.
#[derive(Debug)]
struct RealLock {
    file: fs::File,
    _directory: fs::File,
    path: PathBuf,
}

impl Hold for RealLock {
    fn in_place(&self) -> io::Result<bool> {
        let held = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            // A parent that is a file by now holds no lock either.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// So many bytes leave the page cache in one call: it has no larger unit on x86.
const UNCACHED_BYTES: u64 = 2 << 20;
const UNCACHED_AT_ONCE: Option<NonZeroU64> = NonZeroU64::new(UNCACHED_BYTES);

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

    fn uncache(&self) {
        // A call that lets go of hundreds of megabytes keeps its processor for tens of milliseconds.
        let length = self.length().unwrap_or(0);
        let mut offset = 0;
        while offset < length {
            let _ = rustix::fs::fadvise(&self.0, offset, UNCACHED_AT_ONCE, Advice::DontNeed);
            offset = offset.saturating_add(UNCACHED_BYTES);
        }
        // Whatever lay across two pieces. Pages that are not synced stay; those are not on the disk anyway.
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed);
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
