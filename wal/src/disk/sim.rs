//! The simulated disk: it keeps what is written and what is durable apart, and can lose any part of
//! the difference.
//!
//! What always holds: a byte is durable only after its file's sync, a name only after the sync of its
//! directory; until then each written cell of 512 bytes is kept or lost on its own, and of the
//! changes of names any prefix is kept. A failed sync loses what it should have made durable: it
//! still reads as written, and the next sync does not notice (as Linux does it).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Disk, File, Hold, Lock};
use crate::cell::CELL_BYTES;

/// One call that changed something. A recorded list of them can be played onto another disk, call by
/// call, so that a crash after each can be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimOp {
    /// A directory was made.
    CreateDir(String),
    /// A file was made or emptied; files are counted from 0 in the order of this call.
    Create(String),
    /// Bytes were written to a file.
    Write(usize, u64, Vec<u8>),
    /// A file was synced.
    Sync(usize),
    /// A file was cut.
    Truncate(usize, u64),
    /// A range of a file was given back.
    Punch(usize, u64, u64),
    /// A file was renamed.
    Rename(String, String),
    /// A file was removed.
    Remove(String),
    /// A directory was synced.
    SyncDir(String),
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFault {
    /// It fails with this error of the system, by its number.
    Errno(i32),
    /// It fails with an error of this kind.
    Kind(io::ErrorKind),
    /// A write takes only the first half, at least one byte; other calls are as ever.
    Short,
}

/// Decides whether a call fails: called with its name, path and offset.
type Fault = Box<dyn FnMut(&str, &str, u64) -> Option<SimFault> + Send>;

/// A disk in memory; clones are handles to the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    /// A sync has begun to wait, or may go on.
    held_changed: Arc<Condvar>,
}

#[derive(Default)]
struct Inner {
    files: Vec<SimFileData>,
    names: Names,
    durable_names: Names,
    /// Changes of names since the last sync of their directory, with that directory.
    pending_names: Vec<(String, NameChange)>,
    dirs: BTreeSet<String>,
    recorded: Vec<SimOp>,
    fault: Option<Fault>,
    /// Syncs of files whose path begins so wait.
    held: Option<String>,
    /// How many wait.
    holding: usize,
    /// Bytes that all files together can take.
    capacity: Option<u64>,
    locked: bool,
    /// The path leads to another lock by now.
    lock_lost: bool,
}

type Names = BTreeMap<String, usize>;

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Move(String, String),
    Unset(String),
}

/// Contents are shared between a disk and its crash images until one of them writes.
#[derive(Clone, Default)]
struct SimFileData {
    durable: Arc<Vec<u8>>,
    written: Arc<Vec<u8>>,
    /// Cells written since the last sync: offset and bytes.
    pending: Vec<(u64, Vec<u8>)>,
    /// A sync has failed: what is written is not all that the next one makes durable.
    lost: bool,
    /// Ranges that were given back, as start and end; they do not overlap.
    holes: Vec<(u64, u64)>,
}

impl SimFileData {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        // Blocks that were given back are taken again, more of them than need be.
        let end = offset + bytes.len() as u64;
        self.holes.retain(|hole| hole.1 <= offset || hole.0 >= end);
        write_into(Arc::make_mut(&mut self.written), offset, bytes);
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let to_boundary = CELL_BYTES - (at as usize % CELL_BYTES);
            let (now, later) = rest.split_at(rest.len().min(to_boundary));
            self.pending.push((at, now.to_vec()));
            at += now.len() as u64;
            rest = later;
        }
    }

    fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.lost {
            let durable = Arc::make_mut(&mut self.durable);
            for (offset, bytes) in &pending {
                write_into(durable, *offset, bytes);
            }
        } else {
            self.durable = Arc::clone(&self.written);
        }
    }

    /// The kernel marks the pages clean: what was pending is lost without a further word.
    fn fail_sync(&mut self) {
        self.lost |= !self.pending.is_empty();
        self.pending.clear();
    }

    /// Bytes that the file takes on the disk.
    fn taken(&self) -> u64 {
        let holes: u64 = self.holes.iter().map(|(start, end)| end - start).sum();
        (self.written.len() as u64).saturating_sub(holes)
    }

    /// What is there without the holes that overlap a range, and one hole that spans them all.
    fn add_hole(&mut self, mut start: u64, mut end: u64) {
        end = end.min(self.written.len() as u64);
        self.holes.retain(|hole| {
            let apart = hole.1 < start || hole.0 > end;
            if !apart {
                (start, end) = (start.min(hole.0), end.max(hole.1));
            }
            apart
        });
        if start < end {
            self.holes.push((start, end));
        }
    }
}

fn write_into(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Unset(path) => {
                names.remove(path);
            }
        }
    }
}

impl Inner {
    /// Whether the call is to be cut short; only a write can be.
    fn fault(&mut self, call: &str, path: &str, offset: u64) -> io::Result<bool> {
        match self
            .fault
            .as_mut()
            .and_then(|fault| fault(call, path, offset))
        {
            Some(SimFault::Errno(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(SimFault::Kind(kind)) => {
                Err(io::Error::new(kind, "injected by the simulated disk"))
            }
            Some(SimFault::Short) => Ok(true),
            None => Ok(false),
        }
    }

    /// The same for a call on an open file, by the name that it has now.
    fn file_fault(&mut self, call: &str, file: &SimFile, offset: u64) -> io::Result<bool> {
        if self.fault.is_none() {
            return Ok(false);
        }
        let path = self.path_of(file);
        self.fault(call, &path, offset)
    }

    /// An open file's name, the first one that it had if it has none by now.
    fn path_of(&self, file: &SimFile) -> String {
        let named = self.names.iter().find(|(_, number)| **number == file.file);
        named.map_or_else(|| file.path.clone(), |(path, _)| path.clone())
    }

    fn free_bytes(&self) -> u64 {
        let Some(capacity) = self.capacity else {
            return u64::MAX;
        };
        let taken: u64 = self
            .names
            .values()
            .filter_map(|file| self.files.get(*file))
            .map(SimFileData::taken)
            .sum();
        capacity.saturating_sub(taken)
    }

    /// How many of `length` bytes at `offset` of a file there is room for.
    fn fitting(&self, file: usize, offset: u64, length: usize) -> usize {
        if self.capacity.is_none() {
            return length;
        }
        let end = self.files[file].written.len() as u64;
        let room = end.saturating_add(self.free_bytes()).saturating_sub(offset);
        length.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    fn change_name(&mut self, dir: &str, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push((dir.to_owned(), change));
    }

    fn apply(&mut self, op: &SimOp) -> usize {
        let mut created = 0;
        match op {
            SimOp::CreateDir(path) => {
                self.dirs.insert(path.clone());
            }
            SimOp::Create(path) => {
                created = self.files.len();
                self.files.push(SimFileData::default());
                self.change_name(dir_of(path), NameChange::Set(path.clone(), created));
            }
            SimOp::Write(file, offset, bytes) => self.files[*file].write(*offset, bytes),
            SimOp::Sync(file) => self.files[*file].sync(),
            SimOp::Truncate(file, length) => {
                let data = &mut self.files[*file];
                Arc::make_mut(&mut data.written).resize(*length as usize, 0);
                data.holes.retain(|hole| hole.1 <= *length);
                data.sync();
            }
            SimOp::Punch(file, offset, length) => {
                // At once durable: what lies there is not read any more, before or after.
                let data = &mut self.files[*file];
                data.add_hole(*offset, offset.saturating_add(*length));
                for content in [&mut data.written, &mut data.durable] {
                    let end = content.len().min((offset + length) as usize);
                    let start = end.min(*offset as usize);
                    Arc::make_mut(content)[start..end].fill(0);
                }
            }
            SimOp::Rename(from, to) => {
                self.change_name(dir_of(to), NameChange::Move(from.clone(), to.clone()));
            }
            SimOp::Remove(path) => {
                self.change_name(dir_of(path), NameChange::Unset(path.clone()));
            }
            SimOp::SyncDir(dir) => {
                let (now, later) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(of, _)| of == dir);
                self.pending_names = later;
                for (_, change) in now {
                    change.apply(&mut self.durable_names);
                }
            }
        }
        self.recorded.push(op.clone());
        created
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was called since the disk was made, or since this was last called.
    #[must_use]
    pub fn take_recorded(&self) -> Vec<SimOp> {
        std::mem::take(&mut self.inner().recorded)
    }

    /// How many calls were recorded and not taken.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.inner().recorded.len()
    }

    /// Plays one recorded call onto this disk.
    pub fn play(&self, op: &SimOp) {
        self.inner().apply(op);
    }

    /// Written cells that are not durable, over all files.
    #[must_use]
    pub fn pending_cells(&self) -> usize {
        self.inner()
            .files
            .iter()
            .map(|file| file.pending.len())
            .sum()
    }

    /// Changes of names that are not durable.
    #[must_use]
    pub fn pending_names(&self) -> usize {
        self.inner().pending_names.len()
    }

    /// The disk as a power cut leaves it: what is durable, of each pending cell the first bytes, as
    /// many as `keep_bytes` says (called with the cell's number, in the order of files and writes,
    /// and its length), and the first `keep_names` pending changes of names.
    #[must_use]
    pub fn power_cut(
        &self,
        mut keep_bytes: impl FnMut(usize, usize) -> usize,
        keep_names: usize,
    ) -> Self {
        let inner = self.inner();
        let mut number = 0;
        let mut files = Vec::with_capacity(inner.files.len());
        for file in &inner.files {
            let mut content = Arc::clone(&file.durable);
            for (offset, bytes) in &file.pending {
                let kept = bytes
                    .get(..keep_bytes(number, bytes.len()))
                    .unwrap_or(bytes);
                if !kept.is_empty() {
                    write_into(Arc::make_mut(&mut content), *offset, kept);
                }
                number += 1;
            }
            files.push(SimFileData {
                durable: Arc::clone(&content),
                written: content,
                holes: file.holes.clone(),
                ..SimFileData::default()
            });
        }
        let mut names = inner.durable_names.clone();
        for (_, change) in inner.pending_names.iter().take(keep_names) {
            change.apply(&mut names);
        }
        Self::image(Inner {
            files,
            durable_names: names.clone(),
            names,
            dirs: inner.dirs.clone(),
            capacity: inner.capacity,
            ..Inner::default()
        })
    }

    /// The disk as the death of the process leaves it: all that was written is there and none of it
    /// is more durable than before.
    #[must_use]
    pub fn kill(&self) -> Self {
        let inner = self.inner();
        Self::image(Inner {
            files: inner.files.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            pending_names: inner.pending_names.clone(),
            dirs: inner.dirs.clone(),
            capacity: inner.capacity,
            ..Inner::default()
        })
    }

    fn image(inner: Inner) -> Self {
        Self {
            inner: Arc::new(Mutex::new(inner)),
            held_changed: Arc::default(),
        }
    }

    /// Lets calls fail: `fault` sees each call's name, path and offset (0 where there is none).
    pub fn inject(
        &self,
        mut fault: impl FnMut(&str, &str, u64) -> Option<io::ErrorKind> + Send + 'static,
    ) {
        self.interfere(move |call, path, offset| fault(call, path, offset).map(SimFault::Kind));
    }

    /// As [`SimDisk::inject`], with all that can go wrong. `fault` sees every call, on the thread
    /// that makes it, and can count them.
    pub fn interfere(
        &self,
        fault: impl FnMut(&str, &str, u64) -> Option<SimFault> + Send + 'static,
    ) {
        self.inner().fault = Some(Box::new(fault));
    }

    /// Lets syncs of files whose path begins with `prefix` wait until [`SimDisk::let_syncs_go`].
    pub fn hold_syncs(&self, prefix: &str) {
        self.inner().held = Some(prefix.to_owned());
    }

    /// Waits until so many syncs wait.
    pub fn wait_for_held_syncs(&self, count: usize) {
        let mut inner = self.inner();
        while inner.holding < count {
            inner = self
                .held_changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends what [`SimDisk::hold_syncs`] began.
    pub fn let_syncs_go(&self) {
        self.inner().held = None;
        self.held_changed.notify_all();
    }

    /// From now on all files together take at most so many bytes; a write beyond it is short, then
    /// fails for want of space.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity = bytes;
    }

    /// Somebody moves the data dir away, or its lock: who holds it can find out.
    pub fn lose_lock(&self) {
        self.inner().lock_lost = true;
    }

    /// A file's content as it reads now.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let inner = self.inner();
        let file = *inner.names.get(path)?;
        Some(inner.files.get(file)?.written.to_vec())
    }

    /// Replaces a file's content, or makes the file, durably: damage, as the disk may do it.
    pub fn set_content(&self, path: &str, content: Vec<u8>) {
        let mut inner = self.inner();
        let content = Arc::new(content);
        let data = SimFileData {
            durable: Arc::clone(&content),
            written: content,
            ..SimFileData::default()
        };
        inner.files.push(data);
        let file = inner.files.len() - 1;
        inner.names.insert(path.to_owned(), file);
        inner.durable_names.insert(path.to_owned(), file);
    }

    /// Paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.inner().names.keys().cloned().collect()
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.fault("create_dir", path, 0)?;
        inner.apply(&SimOp::CreateDir(path.to_owned()));
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        let mut inner = self.inner();
        inner.fault("create", path, 0)?;
        let file = inner.apply(&SimOp::Create(path.to_owned()));
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            path: path.to_owned(),
        }))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        let mut inner = self.inner();
        inner.fault("open", path, 0)?;
        let file = *inner.names.get(path).ok_or_else(not_found)?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            file,
            path: path.to_owned(),
        }))
    }

    fn open_write(&self, path: &str) -> io::Result<Box<dyn File>> {
        self.open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.fault("rename", to, 0)?;
        if !inner.names.contains_key(from) {
            return Err(not_found());
        }
        inner.apply(&SimOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.fault("remove", path, 0)?;
        if !inner.names.contains_key(path) {
            return Err(not_found());
        }
        inner.apply(&SimOp::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut inner = self.inner();
        inner.fault("list", dir, 0)?;
        let files = inner.names.keys().filter(|path| dir_of(path) == dir);
        let dirs = inner
            .dirs
            .iter()
            .filter(|path| dir_of(path) == dir && !path.is_empty());
        let mut names: Vec<String> = files
            .chain(dirs)
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.fault("sync_dir", dir, 0)?;
        inner.apply(&SimOp::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut inner = self.inner();
        inner.fault("free_bytes", "", 0)?;
        Ok(inner.free_bytes())
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        let mut inner = self.inner();
        inner.fault("lock", path, 0)?;
        if inner.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another handle"));
        }
        (inner.locked, inner.lock_lost) = (true, false);
        Ok(Box::new(SimLock(self.clone())))
    }
}

struct SimLock(SimDisk);

impl Hold for SimLock {
    fn in_place(&self) -> io::Result<bool> {
        let mut inner = self.0.inner();
        inner.fault("in_place", "lock", 0)?;
        Ok(!inner.lock_lost)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.inner().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
    path: String,
}

impl File for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.disk.inner();
        let short = inner.file_fault("write", self, offset)?;
        let wanted = if short && bytes.len() > 1 {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        let length = inner.fitting(self.file, offset, wanted);
        if length == 0 && wanted > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.apply(&SimOp::Write(self.file, offset, bytes[..length].to_vec()));
        Ok(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        if inner.held.is_some() {
            inner.holding += 1;
            self.disk.held_changed.notify_all();
            while let Some(prefix) = &inner.held
                && inner.path_of(self).starts_with(prefix)
            {
                inner = self
                    .disk
                    .held_changed
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            inner.holding -= 1;
        }
        if let Err(error) = inner.file_fault("sync", self, 0) {
            inner.files[self.file].fail_sync();
            return Err(error);
        }
        inner.apply(&SimOp::Sync(self.file));
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.disk.inner();
        inner.file_fault("read", self, offset)?;
        let content = &inner.files[self.file].written;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        let mut inner = self.disk.inner();
        inner.file_fault("length", self, 0)?;
        Ok(inner.files[self.file].written.len() as u64)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.file_fault("truncate", self, 0)?;
        inner.apply(&SimOp::Truncate(self.file, length));
        Ok(())
    }

    fn punch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.file_fault("punch", self, offset)?;
        inner.apply(&SimOp::Punch(self.file, offset, length));
        Ok(())
    }
}
