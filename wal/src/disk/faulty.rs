//! A disk that dies or fails at its N-th call: the part of crash tests that only the real program can
//! play. It exists in builds with the feature `faults` alone.
//!
//! Two environment variables say what happens; N counts the calls of one kind, from 1, over all files.
//!
//! | variable | form | at call N the process |
//! | --- | --- | --- |
//! | `FAULT_DIE_AT` | `kind:N:before` | kills itself instead |
//! | | `kind:N:after` | kills itself when it is done |
//! | | `write:N:half` | kills itself when half of the bytes are written |
//! | `FAULT_FAIL_AT` | `kind:N:errno` | sees it fail, once, with the error of this number |
//! | | `kind:N:errno:always` | sees it fail, and all later ones of its kind |
//!
//! Kinds: `create`, `write`, `sync` (of a file), `sync_dir`, `rename`, `remove`, `create_dir`, `truncate`,
//! `punch`, `open` (for reading or writing), `read`, `list`, `length`; `change` counts all of those up to
//! `punch`. `kind@thread` counts the calls of the thread of that name alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Disk, File, Lock};

const DIE_AT: &str = "FAULT_DIE_AT";
const FAIL_AT: &str = "FAULT_FAIL_AT";

/// Kinds of calls that change something, all of which count as `change`.
const CHANGES: &[&str] = &[
    "create",
    "write",
    "sync",
    "sync_dir",
    "rename",
    "remove",
    "create_dir",
    "truncate",
    "punch",
];
const LOOKS: &[&str] = &["open", "read", "list", "length"];

/// Another disk, and what goes wrong with it.
pub struct FaultyDisk {
    disk: Arc<dyn Disk>,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    die: Option<Fault<Moment>>,
    fail: Option<Fault<Failure>>,
}

#[derive(Debug)]
struct Fault<T> {
    kind: String,
    /// Whose calls count; `None`: everybody's.
    thread: Option<String>,
    number: u64,
    what: T,
    seen: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    Half,
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    errno: i32,
    always: bool,
}

impl FaultyDisk {
    /// `disk` with the faults that the environment asks for.
    ///
    /// # Errors
    /// `InvalidInput` with a sentence if a variable is not understood: a test that plants nothing must
    /// not look like one that found nothing.
    pub fn from_environment(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let plan = Plan {
            die: fault(DIE_AT, |words| match words {
                ["before"] => Some(Moment::Before),
                ["half"] => Some(Moment::Half),
                ["after"] => Some(Moment::After),
                _ => None,
            })?,
            fail: fault(FAIL_AT, |words| {
                let (errno, always) = match words {
                    [errno] => (errno, false),
                    [errno, "always"] => (errno, true),
                    _ => return None,
                };
                let errno = errno.parse().ok()?;
                Some(Failure { errno, always })
            })?,
        };
        let plan = Arc::new(plan);
        Ok(Self { disk, plan })
    }

    fn call<T>(&self, kind: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.plan.call(kind, call)
    }

    fn wrap(&self, file: Box<dyn File>) -> Box<dyn File> {
        let plan = Arc::clone(&self.plan);
        Box::new(FaultyFile { file, plan })
    }
}

fn fault<T>(
    variable: &str,
    parse: impl FnOnce(&[&str]) -> Option<T>,
) -> io::Result<Option<Fault<T>>> {
    let Some(text) = std::env::var_os(variable) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let words: Vec<&str> = text.split(':').collect();
    let parsed = match words.as_slice() {
        [calls, number, rest @ ..] => {
            let (kind, thread) = match calls.split_once('@') {
                Some((kind, thread)) => (kind, Some(thread.to_owned())),
                None => (*calls, None),
            };
            let number = number.parse().ok().filter(|_| is_kind(kind));
            number.zip(parse(rest)).map(|(number, what)| Fault {
                kind: kind.to_owned(),
                thread,
                number,
                what,
                seen: AtomicU64::new(0),
            })
        }
        _ => None,
    };
    let refused = || {
        let sentence = format!("{variable} is not understood: {text}");
        io::Error::new(io::ErrorKind::InvalidInput, sentence)
    };
    parsed.map(Some).ok_or_else(refused)
}

fn is_kind(kind: &str) -> bool {
    kind == "change" || CHANGES.contains(&kind) || LOOKS.contains(&kind)
}

impl<T: Copy> Fault<T> {
    /// Counts a call; which of the counted ones it is, 0 if it is of another kind.
    fn count(&self, kind: &str) -> u64 {
        let is_kind = self.kind == kind || (self.kind == "change" && CHANGES.contains(&kind));
        let by = self.thread.as_deref();
        if is_kind && (by.is_none() || by == std::thread::current().name()) {
            self.seen.fetch_add(1, Ordering::SeqCst) + 1
        } else {
            0
        }
    }
}

impl Plan {
    /// When the process is to die in this call, if it is.
    fn death(&self, kind: &str) -> Option<Moment> {
        let die = self.die.as_ref()?;
        (die.count(kind) == die.number).then_some(die.what)
    }

    fn failure(&self, kind: &str) -> io::Result<()> {
        let Some(fail) = &self.fail else {
            return Ok(());
        };
        let count = fail.count(kind);
        if count == fail.number || (count > fail.number && fail.what.always) {
            return Err(io::Error::from_raw_os_error(fail.what.errno));
        }
        Ok(())
    }

    fn call<T>(&self, kind: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.death(kind) {
            None => {
                self.failure(kind)?;
                call()
            }
            // Half of a rename is no rename.
            Some(Moment::Before | Moment::Half) => die(),
            Some(Moment::After) => {
                let _ = call();
                die()
            }
        }
    }
}

/// SIGKILL: nothing of the process runs after this, no drop and no handler.
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.call("create_dir", || self.disk.create_dir(path))
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        let file = self.call("create", || self.disk.create(path))?;
        Ok(self.wrap(file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        let file = self.call("open", || self.disk.open(path))?;
        Ok(self.wrap(file))
    }

    fn open_write(&self, path: &str) -> io::Result<Box<dyn File>> {
        let file = self.call("open", || self.disk.open_write(path))?;
        Ok(self.wrap(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call("rename", || self.disk.rename(from, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.call("remove", || self.disk.remove(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.call("list", || self.disk.list(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.call("sync_dir", || self.disk.sync_dir(dir))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        self.disk.lock(path)
    }
}

struct FaultyFile {
    file: Box<dyn File>,
    plan: Arc<Plan>,
}

impl File for FaultyFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        match self.plan.death("write") {
            None => {
                self.plan.failure("write")?;
                self.file.write_at(offset, bytes)
            }
            Some(moment) => {
                let length = match moment {
                    Moment::Before => 0,
                    Moment::Half => bytes.len() / 2,
                    Moment::After => bytes.len(),
                };
                let _ = self
                    .file
                    .write_at(offset, bytes.get(..length).unwrap_or_default());
                die()
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.plan.call("sync", || self.file.sync())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.plan.call("read", || self.file.read_at(offset, bytes))
    }

    fn length(&self) -> io::Result<u64> {
        self.plan.call("length", || self.file.length())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.plan.call("truncate", || self.file.truncate(length))
    }

    fn punch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.plan.call("punch", || self.file.punch(offset, length))
    }
}
