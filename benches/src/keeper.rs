//! What keeps bodies on a disk for the bare server: a file whose blocks are written already, into which
//! groups are written and synced by the rules by which ekokv's are. There is nothing behind it, neither a
//! format nor a state.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// What the bodies of half a minute take.
pub(crate) const FILE_BYTES: u64 = 256 << 20;
/// The zeros are written in pieces of this.
const FILL_BYTES: usize = 1 << 20;
/// Groups are written in whole blocks, as the log writes its batches.
const BLOCK_BYTES: usize = 4096;
/// Beside each body: a key of 16 bytes, and 24 to tell what and when.
const OVERHEAD_BYTES: usize = 40;
/// As in the store: so many are a group, or as many as the last one had, or whoever has come so long after it.
const GROUP_WAITERS: usize = 48;
const GROUP_PATIENCE: Duration = Duration::from_micros(300);

/// Keeps bodies in a file.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    group: Mutex<Group>,
    changed: Condvar,
    log: Mutex<Log>,
}

/// The group that is open, and what is known of the one before.
struct Group {
    bytes: Vec<u8>,
    waiters: Vec<oneshot::Sender<()>>,
    last_waiters: usize,
    last_sync: Instant,
    /// Another one is on its way to the disk.
    is_writing: bool,
}

impl Group {
    /// How long it is to wait for others, if anybody waits in it.
    fn patience(&self) -> Option<Duration> {
        match self.waiters.len() {
            _ if self.is_writing => None,
            0 => None,
            waiters if waiters >= self.last_waiters.min(GROUP_WAITERS) => Some(Duration::ZERO),
            _ => Some(GROUP_PATIENCE.saturating_sub(self.last_sync.elapsed())),
        }
    }
}

/// A file that is written over from its begin on when its last byte is written.
struct Log {
    file: File,
    length: u64,
    end: u64,
}

impl Log {
    fn create(path: &Path, length: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut left = length;
        let zeros = vec![0; FILL_BYTES];
        while left > 0 {
            let piece = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all(&zeros[..piece])?;
            left -= piece as u64;
        }
        file.sync_all()?;
        let end = 0;
        Ok(Self { file, length, end })
    }

    /// Fills up the last block, writes and syncs.
    fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let length = bytes.len() as u64;
        if self.end.saturating_add(length) > self.length {
            self.end = 0;
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end = self.end.saturating_add(length);
        self.file.sync_data()
    }
}

impl Keeper {
    /// Makes a file of so many bytes, and the thread that writes groups.
    pub(crate) fn create(path: &Path, length: u64) -> io::Result<Self> {
        let log = Log::create(path, length)?;
        let shared = Arc::new(Shared {
            group: Mutex::new(Group {
                bytes: Vec::new(),
                waiters: Vec::new(),
                last_waiters: 0,
                last_sync: Instant::now(),
                is_writing: false,
            }),
            changed: Condvar::new(),
            log: Mutex::new(log),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().spawn(move || of_thread.run())?;
        Ok(Self(shared))
    }

    /// Resolves once the body is on disk. Who is alone writes it here, as a lone writer's handler does.
    pub(crate) fn keep(&self, body: &[u8]) -> impl Future<Output = ()> + Send + use<> {
        let (kept, waits) = oneshot::channel();
        let mut group = self.0.lock();
        let length = group.bytes.len().saturating_add(OVERHEAD_BYTES);
        group.bytes.resize(length, 1);
        group.bytes.extend_from_slice(body);
        group.waiters.push(kept);
        let is_alone = group.waiters.len() == 1 && group.last_waiters <= 1;
        match group.patience() {
            Some(_) if is_alone => drop(self.0.write(group)),
            // The thread is to look when the patience of the first one ends.
            Some(left) if left.is_zero() || group.waiters.len() == 1 => {
                drop(group);
                self.0.changed.notify_one();
            }
            _ => {}
        }
        async {
            // It is sent, or the process ends.
            let _ = waits.await;
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut group = self.lock();
        loop {
            group = match group.patience() {
                Some(Duration::ZERO) => self.write(group),
                Some(left) => {
                    let woken = self.changed.wait_timeout(group, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let woken = self.changed.wait(group);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Writes the group and lets its answers go.
    fn write<'a>(&'a self, mut group: MutexGuard<'a, Group>) -> MutexGuard<'a, Group> {
        group.is_writing = true;
        let mut bytes = mem::take(&mut group.bytes);
        let waiters = mem::take(&mut group.waiters);
        drop(group);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.append(&mut bytes) {
            eprintln!("cannot keep a body: {error}");
            process::exit(74);
        }
        drop(log);
        let mut group = self.lock();
        group.is_writing = false;
        group.last_waiters = waiters.len();
        group.last_sync = Instant::now();
        if group.bytes.is_empty() {
            bytes.clear();
            group.bytes = bytes;
        } else {
            self.changed.notify_one();
        }
        drop(group);
        for waiter in waiters {
            // A client may have gone.
            let _ = waiter.send(());
        }
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::path::PathBuf;

    use tokio::runtime::Builder;

    use super::*;

    /// A file that is removed when it is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("ekokv-keeper-{}-{name}", process::id()));
            let _ = fs::remove_file(&path);
            Self(path)
        }

        fn has(&self, body: &str) -> bool {
            let bytes = fs::read(&self.0).unwrap();
            bytes
                .windows(body.len())
                .any(|part| part == body.as_bytes())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn wait<F: Future>(future: F) -> F::Output {
        Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_body_is_in_the_file_when_its_answer_may_go() {
        let scratch = Scratch::new("alone");
        let keeper = Keeper::create(&scratch.0, 1 << 20).unwrap();
        for number in 0..20 {
            let body = format!("body {number} of one");
            assert!(!scratch.has(&body));
            wait(keeper.keep(body.as_bytes()));
            assert!(scratch.has(&body));
        }
    }

    #[test]
    fn whoever_comes_while_others_are_written_is_written_behind_them() {
        let scratch = Scratch::new("many");
        let keeper = Keeper::create(&scratch.0, 4 << 20).unwrap();
        thread::scope(|scope| {
            for writer in 0..8 {
                let (keeper, scratch) = (&keeper, &scratch);
                scope.spawn(move || {
                    for number in 0..10 {
                        let bodies =
                            [0, 1].map(|half| format!("body {number}.{half} of writer {writer}"));
                        let kept = bodies.each_ref().map(|body| keeper.keep(body.as_bytes()));
                        for (kept, body) in kept.into_iter().zip(&bodies) {
                            wait(kept);
                            assert!(scratch.has(body));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_full_file_is_written_over() {
        let scratch = Scratch::new("full");
        let mut log = Log::create(&scratch.0, 2 * BLOCK_BYTES as u64).unwrap();
        for body in ["first", "second", "third"] {
            log.append(&mut body.as_bytes().to_vec()).unwrap();
        }
        let bytes = fs::read(&scratch.0).unwrap();
        assert_eq!(bytes.len(), 2 * BLOCK_BYTES);
        assert!(bytes.starts_with(b"third\0"));
        assert!(bytes[BLOCK_BYTES..].starts_with(b"second\0"));
    }
}
