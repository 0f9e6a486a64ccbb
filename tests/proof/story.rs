//! A story: a store with all its threads on a simulated disk, told what to do one thing after the
//! other, while every call of the disk is recorded together with what was promised by then.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use ekokv::clock::ManualClock;
use ekokv::state::Form;
use ekokv::store::{Command, Condition, Durability, Error, Opened, Put, Reply, Store, Ttl};
use ekokv_wal::{SimDisk, SimOp};

use super::model::Truth;
use super::tape::{Mark, Tape};
use crate::sim::{get, options, runtime};

/// How long an expired key is remembered.
pub(crate) const RETENTION: Duration = Duration::from_secs(600);
/// Waiting for an event looks so often.
const LOOKS_MAX: usize = 10_000;

pub(crate) struct Story {
    durability: Durability,
    clock: Arc<ManualClock>,
    pub(crate) disk: SimDisk,
    opened: Option<Opened>,
    runtime: tokio::runtime::Runtime,
    tape: Tape,
    /// The last sequence that an answer named.
    last: u64,
}

impl Story {
    /// A new store.
    pub(crate) fn begin(durability: Durability) -> Self {
        let mut story = Self {
            durability,
            clock: Arc::new(ManualClock::new(1_000_000)),
            disk: SimDisk::new(),
            opened: None,
            runtime: runtime(),
            tape: Tape::default(),
            last: 0,
        };
        story.open(None);
        story
    }

    fn open(&mut self, admin_key: Option<&str>) {
        // The first changes of a new store, and of another admin key, happen in here, and the skip of
        // a run that answered before it synced.
        let skip = match self.durability {
            Durability::Always => 0,
            Durability::Interval(_) | Durability::Os => 1 << 32,
        };
        self.mark(0, self.last + skip + 8);
        let mut options = options(self.durability);
        options.expired_retention = RETENTION;
        options.clock = self.clock.clone();
        options.admin_key = admin_key.map(str::to_owned);
        self.opened = Some(Store::open_on(options, Arc::new(self.disk.clone())).unwrap());
        // What a start has read it has made durable.
        let reply = self.look();
        self.mark(reply.sequence, reply.sequence);
    }

    pub(crate) fn store(&self) -> &Store {
        &self.opened.as_ref().unwrap().store
    }

    fn look(&mut self) -> Reply {
        let reply = self.runtime.block_on(self.store().call(get("no such key")));
        let reply = reply.unwrap();
        self.last = self.last.max(reply.sequence);
        reply
    }

    fn calls(&self) -> usize {
        self.tape.calls.len() + self.disk.recorded()
    }

    fn mark(&mut self, durable: u64, sent: u64) {
        let calls = self.calls();
        self.tape.marks.push(Mark {
            calls,
            durable,
            sent,
        });
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn call(&mut self, command: Command) -> Reply {
        let before = self.calls();
        let reply = loop {
            match self.runtime.block_on(self.store().call(command.clone())) {
                // The next segment is being made.
                Err(Error::Busy { .. }) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        self.tape.marks.push(Mark {
            calls: before,
            durable: 0,
            sent: reply.sequence,
        });
        let durable = match self.durability {
            Durability::Always => reply.sequence,
            Durability::Interval(_) | Durability::Os => 0,
        };
        self.mark(durable, reply.sequence);
        self.last = self.last.max(reply.sequence);
        reply
    }

    pub(crate) fn set(&mut self, key: &str, text: &str) {
        self.call(put(key, text, Ttl::None));
    }

    pub(crate) fn set_for(&mut self, key: &str, text: &str, ms: u64) {
        let ttl = Ttl::After(Duration::from_millis(ms));
        self.call(put(key, text, ttl));
    }

    pub(crate) fn link(&mut self, key: &str, record_id: &str, metadata: Option<&'static str>) {
        self.call(Command::Link {
            key: key.into(),
            collection: "users".into(),
            record_id: record_id.into(),
            metadata: metadata.map(|text| text.as_bytes().into()),
        });
    }

    pub(crate) fn unlink(&mut self, key: &str, record_id: &str) {
        self.call(Command::Unlink {
            key: key.into(),
            collection: "users".into(),
            record_id: record_id.into(),
        });
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.call(Command::Delete {
            key: key.into(),
            condition: Condition::None,
        });
    }

    /// Lets time pass until something is due, and waits until it is logged.
    pub(crate) fn pass(&mut self, ms: u64) {
        let before = self.last;
        self.mark(0, before + 64);
        self.clock.advance(ms);
        let purged = (0..LOOKS_MAX).any(|_| self.look().sequence > before);
        assert!(purged, "nothing was due");
        // The purge is one batch, and a read is answered when it is released.
        self.mark(0, self.last);
    }

    /// Folds the log into a snapshot.
    pub(crate) fn compact(&mut self) -> u64 {
        let sequence = self.runtime.block_on(self.store().compact()).unwrap();
        self.mark(sequence, self.last);
        sequence
    }

    /// The same while `change` goes on.
    pub(crate) fn compact_while(&mut self, change: impl FnOnce(&mut Self)) {
        let store = self.store().clone();
        let compacting = std::thread::spawn(move || runtime().block_on(store.compact()));
        change(self);
        let sequence = compacting.join().unwrap().unwrap();
        self.mark(sequence, self.last);
    }

    /// Compacts while the newest snapshot cannot be read: the live state is written out anew.
    pub(crate) fn rescue(&mut self) {
        let newest = self.disk.paths().into_iter();
        let newest = newest.filter(|path| path.ends_with(".snap")).max().unwrap();
        self.disk.inject(move |call, path, _| {
            (call == "read" && path == newest).then_some(ErrorKind::Other)
        });
        self.compact();
        self.disk.inject(|_, _, _| None);
        let broken = self.disk.paths().into_iter();
        assert_eq!(broken.filter(|path| path.ends_with(".broken")).count(), 1);
    }

    /// The process dies, and another one opens what the page cache shows.
    pub(crate) fn kill(&mut self) {
        let opened = self.opened.take().unwrap();
        let (killed, calls) = loop {
            let calls = self.disk.recorded();
            let killed = self.disk.kill();
            if self.disk.recorded() == calls {
                break (killed, calls);
            }
        };
        // What its threads do from here on happened in no world.
        stop(opened);
        let recorded = self.disk.take_recorded();
        self.tape.calls.extend(recorded.into_iter().take(calls));
        self.disk = killed;
        self.open(None);
    }

    /// The process ends in order, and another one begins, with another admin key if one is given.
    pub(crate) fn restart(&mut self, admin_key: Option<&str>) {
        stop(self.opened.take().unwrap());
        self.mark(self.last, self.last);
        self.open(admin_key);
    }

    /// The end of the story: it is killed.
    pub(crate) fn end(mut self) -> Tape {
        let calls = self.disk.recorded();
        let recorded = self.disk.take_recorded();
        self.tape.calls.extend(recorded.into_iter().take(calls));
        std::mem::take(&mut self.tape)
    }

    /// The end of the story, in order: what lies on the disk.
    pub(crate) fn close(mut self) -> SimDisk {
        stop(self.opened.take().unwrap());
        self.disk.power_cut(|_, length| length, usize::MAX)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(opened) = self.opened.take() {
            drop(opened.store);
            let _ = opened.threads.stop();
        }
    }
}

fn stop(opened: Opened) {
    drop(opened.store);
    assert_eq!(opened.threads.stop(), Ok(()));
}

/// A set of a text.
pub(crate) fn put(key: &str, text: &str, ttl: Ttl) -> Command {
    let put = Put {
        key: key.into(),
        value: format!("\"{text}\"").into(),
        form: if text.len().is_multiple_of(2) {
            Form::Bare
        } else {
            Form::Envelope
        },
        ttl,
    };
    Command::Set {
        put,
        condition: Condition::None,
    }
}

/// The truth about a recorded story: its log as if nothing had ever been removed.
pub(crate) fn truth(calls: &[SimOp]) -> Truth {
    let disk = SimDisk::new();
    for call in calls {
        if !matches!(call, SimOp::Remove(path) if path.ends_with(".wal")) {
            disk.play(call);
        }
    }
    Truth::read(&disk)
}
