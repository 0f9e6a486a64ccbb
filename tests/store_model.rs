//! Random commands against a model of the contract that shares no code with the store, with steps of
//! the clock both ways, rotations, compactions, restarts, crashes and a full disk in between: equal after
//! each step. `EKOKV_TEST_LONG=1` takes three thousand random lists of steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

mod workers;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::START_MS;
use ekokv::clock::ManualClock;
use ekokv::state::find::{Cursor, Filter, Hit, Query};
use ekokv::state::{Form, Link};
use ekokv::store::{
    Answer, Command, Condition, Durability, Error, FindPace, Found, Opened, Options, Put, Reply,
    Schedule, Scrub, Store, Tags, Threads, Ttl,
};
use ekokv_wal::{Disk, SimDisk};
use proptest::prelude::*;

/// A dozen changes fill one.
const SEGMENT_BYTES: u64 = 64 << 10;
const RETENTION_MS: u64 = 5_000;
const GRACE_MS: u64 = 20_000;
const DAY_MS: u64 = 24 * 3_600_000;
const KEYS: usize = 6;

/// The store under test, and the clock it is given.
struct Subject {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    durability: Durability,
    running: Option<(Store, Threads)>,
    runtime: tokio::runtime::Runtime,
}

impl Subject {
    fn new(durability: Durability) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let clock = Arc::new(ManualClock::new(START_MS));
        let mut subject = Self {
            disk: SimDisk::new(),
            clock,
            durability,
            running: None,
            runtime,
        };
        subject.open();
        subject
    }

    fn open(&mut self) {
        let options = Options {
            data_dir: "simulated".into(),
            durability: self.durability,
            segment_bytes: SEGMENT_BYTES,
            max_memory_bytes: 1 << 30,
            expired_retention: Duration::from_millis(RETENTION_MS),
            max_body_bytes: 16 << 10,
            max_batch_keys: 10,
            max_key_bytes: 100,
            admin_key: None,
            schedule: Schedule::default(),
            scrub: Scrub::default(),
            clock_grace: Duration::from_millis(GRACE_MS),
            clock: self.clock.clone(),
            workers: Some(workers::workers()),
        };
        let disk = Arc::new(self.disk.clone());
        let Opened { store, threads, .. } = Store::open_on(options, disk).unwrap();
        self.running = Some((store, threads));
    }

    fn restart(&mut self) {
        let (store, threads) = self.running.take().unwrap();
        drop(store);
        threads.stop().unwrap();
        self.open();
    }

    /// Goes on with what a crash leaves on the disk, at a time that the one before never saw.
    fn crash(&mut self, image: SimDisk, now: u64) {
        let (store, threads) = self.running.take().unwrap();
        drop(store);
        threads.stop().unwrap();
        self.disk = image;
        self.clock.set(now);
        self.open();
    }

    fn call(&self, command: Command) -> Result<Reply, Error> {
        let store = &self.running.as_ref().unwrap().0;
        loop {
            match self.runtime.block_on(store.call(command.clone())) {
                // The next segment is being made; nothing has happened.
                Err(Error::Busy { .. }) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    fn compact(&self) {
        let store = &self.running.as_ref().unwrap().0;
        self.runtime.block_on(store.compact()).unwrap();
    }

    /// Leaves too little room for what makes the state grow, and enough for a compaction.
    fn fill_disk(&self) {
        // What a compaction gives back is taken again.
        for _ in 0..2 {
            let mut tries = 0;
            while !self.fill_disk_once() {
                tries += 1;
                assert!(tries < 100, "a compaction never finds room");
            }
        }
    }

    /// Whether there was room for a compaction: the next segment, which is made meanwhile, may have taken
    /// it behind the look at what is taken.
    fn fill_disk_once(&self) -> bool {
        self.disk.set_capacity(Some(u64::MAX));
        let taken = u64::MAX - self.disk.free_bytes().unwrap();
        self.disk
            .set_capacity(Some(taken + SEGMENT_BYTES + SEGMENT_BYTES / 2));
        let store = &self.running.as_ref().unwrap().0;
        // It looks how much is free.
        match self.runtime.block_on(store.compact()) {
            Ok(_) => true,
            Err(Error::SpaceFull { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

/// What a read shows of one key.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    value: Bytes,
    form: Form,
    deadline: Option<u64>,
    version: u64,
}

/// What the contract says of one key.
#[derive(Debug, Clone, PartialEq)]
struct Modelled {
    value: Bytes,
    form: Form,
    deadline: Option<u64>,
    version: u64,
    /// By collection and record id: metadata and when it was linked.
    links: BTreeMap<(String, String), (Option<Bytes>, u64)>,
}

struct Model {
    keys: BTreeMap<String, Modelled>,
    now: u64,
    /// While the clock is behind: the time when it fell behind, and how long ago that is.
    behind: Option<(u64, u64)>,
    /// The last sequence that a write was answered with.
    sequence: u64,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Value(Shown),
    Expired,
    Missing,
}

impl Modelled {
    fn shown(&self) -> Shown {
        let Self {
            value,
            form,
            deadline,
            version,
            ..
        } = self.clone();
        Shown {
            value,
            form,
            deadline,
            version,
        }
    }
}

impl Model {
    /// Time passes, and the wall clock shows `clock` then.
    fn pass(&mut self, ms: u64, clock: u64) {
        if let Some((since, passed)) = &mut self.behind {
            *passed += ms;
            // A hundredth slower, until the clock has caught up.
            self.now = *since + *passed - *passed / 100;
        } else {
            self.now += ms;
        }
        self.compare(clock);
    }

    fn compare(&mut self, clock: u64) {
        if clock >= self.now {
            self.now = clock;
            self.behind = None;
        } else {
            self.behind.get_or_insert((self.now, 0));
        }
    }

    /// Whether a condition holds for a key.
    fn holds(&self, key: &str, condition: &Condition) -> bool {
        let version = match self.see(key) {
            Seen::Value(shown) => Some(shown.version),
            Seen::Expired | Seen::Missing => None,
        };
        match condition {
            Condition::None => true,
            Condition::Absent => version.is_none(),
            Condition::Matches(Tags::Any) => version.is_some(),
            Condition::Matches(Tags::OneOf(tags)) => version.is_some_and(|v| tags.contains(&v)),
        }
    }

    /// Puts a value in the place of another; links stay with a key that was there.
    fn put(&mut self, key: &str, shown: Shown) {
        let links = match self.see(key) {
            Seen::Value(_) => self.keys[key].links.clone(),
            Seen::Expired | Seen::Missing => BTreeMap::new(),
        };
        let Shown {
            value,
            form,
            deadline,
            version,
        } = shown;
        let entry = Modelled {
            value,
            form,
            deadline,
            version,
            links,
        };
        self.keys.insert(key.to_owned(), entry);
    }

    fn see(&self, key: &str) -> Seen {
        match self.keys.get(key) {
            None => Seen::Missing,
            Some(entry) => match entry.deadline {
                Some(deadline) if deadline.saturating_add(RETENTION_MS) <= self.now => {
                    Seen::Missing
                }
                Some(deadline) if deadline <= self.now => Seen::Expired,
                _ => Seen::Value(entry.shown()),
            },
        }
    }

    fn live(&self, key: &str) -> bool {
        matches!(self.see(key), Seen::Value(_))
    }

    fn resolve(&self, ttl: Ttl) -> Option<u64> {
        match ttl {
            Ttl::None => None,
            Ttl::After(span) => Some(self.now + span.as_millis() as u64),
            Ttl::At(at) => Some(at),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Get(usize),
    Set(usize, u16, bool, Life, If),
    Delete(usize, If),
    GetUnless(usize),
    Link(usize, usize, Option<u16>),
    Unlink(usize, usize),
    Find(Filter),
    BatchGet(Vec<usize>),
    BatchSet(Vec<(usize, u16, Life)>),
    BatchDelete(Vec<usize>),
    Clear,
    Forward(u64),
    Back(u64),
    Restart,
    /// The clock leaps ahead by so much in a run, and is set right within the grace or is not.
    Leap(u64, bool),
    /// The same between two runs.
    LeapOverRestart(u64, bool),
    Compact,
    /// The process dies; with it, in `always`, what was not synced.
    Crash,
    /// A write while the disk is full.
    DiskFull(usize, u16),
}

/// A condition, put together once the key's version is known.
#[derive(Debug, Clone, Copy)]
enum If {
    Nothing,
    Current,
    Old,
    Any,
    Absent,
}

#[derive(Debug, Clone, Copy)]
enum Life {
    Endless,
    Span(u64),
    /// Absolute, so many milliseconds from what the clock shows; may be past.
    At(i64),
}

impl Life {
    fn ttl(self, clock: u64) -> Ttl {
        match self {
            Self::Endless => Ttl::None,
            Self::Span(ms) => Ttl::After(Duration::from_millis(ms)),
            Self::At(offset) => Ttl::At(clock.saturating_add_signed(offset)),
        }
    }
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        3 => Just(Life::Endless),
        3 => (1..8_000u64).prop_map(Life::Span),
        1 => (-2_000..8_000i64).prop_map(Life::At),
    ]
}

fn condition() -> impl Strategy<Value = If> {
    prop_oneof![
        6 => Just(If::Nothing),
        2 => Just(If::Current),
        1 => Just(If::Old),
        1 => Just(If::Any),
        1 => Just(If::Absent),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    (
        prop::option::of(prop::sample::select(vec!["a", "b/", "l", "к"])),
        prop::option::of(prop::sample::select(vec!["c", "e", "s"])),
        prop::option::of(prop::sample::select(vec!["^b", "[a-e]", "к.*ч$"])),
        prop::option::of(0..4u64),
        0..2u64,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(prefix, suffix, pattern, limit, offset, reverse, include_expired)| Filter {
                prefix: prefix.map(str::to_owned),
                suffix: suffix.map(str::to_owned),
                pattern: pattern.map(str::to_owned),
                limit,
                offset,
                reverse,
                include_expired,
                ..Filter::default()
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    prop_oneof![
        3 => key().prop_map(Step::Get),
        8 => (key(), any::<u16>(), any::<bool>(), life(), condition())
            .prop_map(|(k, v, b, l, c)| Step::Set(k, v, b, l, c)),
        3 => (key(), condition()).prop_map(|(k, c)| Step::Delete(k, c)),
        1 => key().prop_map(Step::GetUnless),
        4 => (key(), 0..3usize, any::<Option<u16>>()).prop_map(|(k, d, m)| Step::Link(k, d, m)),
        2 => (key(), 0..3usize).prop_map(|(k, d)| Step::Unlink(k, d)),
        3 => filter().prop_map(Step::Find),
        2 => prop::collection::vec(key(), 0..6).prop_map(Step::BatchGet),
        3 => prop::collection::vec((key(), any::<u16>(), life()), 0..6).prop_map(Step::BatchSet),
        2 => prop::collection::vec(key(), 0..6).prop_map(Step::BatchDelete),
        1 => Just(Step::Clear),
        4 => (0..6_000u64).prop_map(Step::Forward),
        1 => (0..20_000u64).prop_map(Step::Back),
        1 => Just(Step::Restart),
        1 => (2..1_000u64, any::<bool>()).prop_map(|(hours, held)| Step::Leap(hours, held)),
        1 => (2..1_000u64, any::<bool>()).prop_map(|(days, held)| Step::LeapOverRestart(days, held)),
        2 => Just(Step::Compact),
        2 => Just(Step::Crash),
        1 => (key(), any::<u16>()).prop_map(|(k, v)| Step::DiskFull(k, v)),
    ]
}

fn key(index: usize) -> String {
    ["a", "b/c", "ключ", "d", "e", "links"][index].to_owned()
}

fn value(content: u16) -> Bytes {
    // Some of them long enough for several cells of the log.
    Bytes::from(format!(
        "\"{}\"",
        "v".repeat(usize::from(content % 997)) + &content.to_string()
    ))
}

struct Test {
    subject: Subject,
    model: Model,
}

impl Test {
    fn write(&mut self, command: Command, changes: bool) -> Reply {
        let reply = self.subject.call(command).unwrap();
        if changes {
            assert!(reply.sequence > self.model.sequence, "{reply:?}");
            self.model.sequence = reply.sequence;
        } else {
            // Purging takes sequences of its own; what changes nothing takes none.
            assert!(reply.sequence >= self.model.sequence, "{reply:?}");
        }
        reply
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Get(k) => self.get(&key(*k)),
            Step::Set(k, content, bare, life, condition) => {
                self.set(*k, *content, *bare, *life, *condition);
            }
            Step::Delete(k, condition) => self.delete(&key(*k), *condition),
            Step::GetUnless(k) => self.get_unless(&key(*k)),
            Step::Link(k, document, metadata) => self.link(&key(*k), *document, *metadata),
            Step::Unlink(k, document) => self.unlink(&key(*k), *document),
            Step::Find(filter) => self.find(filter),
            Step::BatchGet(keys) => self.batch_get(keys),
            Step::BatchSet(puts) => self.batch_set(puts),
            Step::BatchDelete(keys) => {
                let there: Vec<bool> = keys.iter().map(|k| self.model.live(&key(*k))).collect();
                let command = Command::BatchDelete {
                    keys: keys.iter().map(|k| key(*k).into()).collect(),
                };
                let changes = there.contains(&true);
                let reply = self.write(command, changes);
                assert_eq!(reply.answer, Answer::DeletedMany(there.clone()));
                for (k, live) in keys.iter().zip(there) {
                    if live {
                        self.model.keys.remove(&key(*k));
                    }
                }
            }
            Step::Clear => {
                // Whether remembered keys are still there to be cleared is the purge's business.
                let changes = (0..KEYS).any(|k| self.model.live(&key(k)));
                let reply = self.write(Command::Clear, changes);
                assert_eq!(reply.answer, Answer::Cleared);
                self.model.sequence = reply.sequence;
                self.model.keys.clear();
            }
            Step::Forward(ms) => self.pass(*ms),
            Step::Back(ms) => {
                self.subject.clock.set(self.clock() - ms);
                self.model.compare(self.clock());
            }
            Step::Restart => {
                self.subject.restart();
                // A clock that is behind begins to be so anew.
                self.model.behind = None;
                self.model.compare(self.clock());
            }
            Step::Leap(hours, held) => self.leap(hours * 3_600_000, *held),
            Step::LeapOverRestart(days, held) => self.leap_over_restart(days * DAY_MS, *held),
            Step::Compact => self.subject.compact(),
            Step::Crash => self.crash(),
            Step::DiskFull(k, content) => self.disk_full(*k, *content),
        }
        self.see_all();
        for k in 0..KEYS {
            self.links(&key(k));
        }
    }

    fn clock(&self) -> u64 {
        ekokv::clock::Clock::now_ms(self.subject.clock.as_ref())
    }

    fn pass(&mut self, ms: u64) {
        self.subject.clock.advance(ms);
        self.model.pass(ms, self.clock());
    }

    fn leap(&mut self, ms: u64, held: bool) {
        self.subject.clock.set(self.clock() + ms);
        // As long as it may be taken back, time goes on without the clock.
        self.model.behind = None;
        self.see_all();
        self.subject.clock.advance(GRACE_MS - 1);
        self.model.now += GRACE_MS - 1;
        self.see_all();
        if held {
            self.subject.clock.advance(1);
        } else {
            self.subject.clock.set(self.clock() - ms);
        }
        self.model.compare(self.clock());
    }

    fn leap_over_restart(&mut self, ms: u64, held: bool) {
        self.subject.clock.set(self.clock() + ms);
        self.subject.restart();
        self.model.behind = None;
        // Readers see the time of the clock, and the log carries what has passed.
        let mut logged = self.model.now;
        self.model.now = self.clock();
        self.see_all();
        self.subject.clock.advance(GRACE_MS - 1);
        logged += GRACE_MS - 1;
        self.model.now = self.clock();
        self.see_all();
        if held {
            self.subject.clock.advance(1);
        } else {
            self.subject.clock.set(self.clock() - ms);
            self.model.now = logged;
        }
        self.model.compare(self.clock());
    }

    fn see_all(&mut self) {
        self.batch_get(&(0..KEYS).collect::<Vec<_>>());
    }

    fn crash(&mut self) {
        // The last batch carries the time: without one a restart would know an earlier time only.
        let shown = |version| Shown {
            value: value(7),
            form: Form::Bare,
            deadline: None,
            version,
        };
        let put = Put {
            key: key(0).as_str().into(),
            value: value(7),
            form: Form::Bare,
            ttl: Ttl::None,
        };
        let reply = self.write(set(put), true);
        self.model.put(&key(0), shown(reply.sequence));
        let disk = &self.subject.disk;
        let image = match self.subject.durability {
            // What is not synced is lost, and so are names.
            Durability::Always => disk.power_cut(|_, _| 0, 0),
            Durability::Interval(_) | Durability::Os => disk.kill(),
        };
        self.subject.crash(image, self.model.now);
        self.model.behind = None;
        self.model.compare(self.clock());
    }

    /// A write that makes the state grow is refused, and nothing has happened; a delete is not.
    fn disk_full(&mut self, k: usize, content: u16) {
        let key = key(k);
        let shown = |version| Shown {
            value: value(content),
            form: Form::Bare,
            deadline: None,
            version,
        };
        let command = set(Put {
            key: key.as_str().into(),
            value: value(content),
            form: Form::Bare,
            ttl: Ttl::None,
        });
        for round in 0.. {
            self.subject.fill_disk();
            match self.subject.call(command.clone()) {
                Err(Error::SpaceFull { missing }) => {
                    assert!(missing > 0);
                    break;
                }
                // The end of a finished segment was given back meanwhile.
                Ok(reply) => {
                    self.model.put(&key, shown(reply.sequence));
                    self.model.sequence = reply.sequence;
                }
                Err(other) => panic!("{other}"),
            }
            assert!(round < 100, "the disk is never full");
        }
        self.get(&key);
        self.delete(&key, If::Nothing);
        self.subject.disk.set_capacity(None);
        self.subject.compact();
        self.set(k, content, true, Life::Endless, If::Nothing);
    }

    fn condition(&self, key: &str, condition: If) -> Condition {
        let version = self.model.keys.get(key).map_or(1, |entry| entry.version);
        match condition {
            If::Nothing => Condition::None,
            If::Current => Condition::Matches(Tags::OneOf(vec![7_000_000, version])),
            If::Old => Condition::Matches(Tags::OneOf(vec![version - 1])),
            If::Any => Condition::Matches(Tags::Any),
            If::Absent => Condition::Absent,
        }
    }

    /// Asserts that a command is refused because of its condition, and changes nothing.
    fn refused(&mut self, command: Command, key: &str) {
        let version = match self.model.see(key) {
            Seen::Value(shown) => Some(shown.version),
            Seen::Expired | Seen::Missing => None,
        };
        let reply = self.write(command, false);
        assert_eq!(reply.answer, Answer::ConditionFailed { version });
    }

    fn delete(&mut self, key: &str, condition: If) {
        let condition = self.condition(key, condition);
        let holds = self.model.holds(key, &condition);
        let command = Command::Delete {
            key: key.into(),
            condition,
        };
        if !holds {
            return self.refused(command, key);
        }
        let live = self.model.live(key);
        let reply = self.write(command, live);
        assert_eq!(reply.answer, Answer::Deleted(live));
        if live {
            self.model.keys.remove(key);
        }
    }

    fn get_unless(&mut self, key: &str) {
        let version = self.model.keys.get(key).map_or(1, |entry| entry.version);
        for (tags, hit) in [
            (Tags::OneOf(vec![version]), true),
            (Tags::OneOf(vec![version + 1]), false),
            (Tags::Any, true),
        ] {
            let command = Command::Get {
                key: key.into(),
                unless: Some(tags),
            };
            let answer = self.subject.call(command).unwrap().answer;
            match self.model.see(key) {
                Seen::Value(shown) if hit => {
                    let (version, deadline) = (shown.version, shown.deadline);
                    assert_eq!(answer, Answer::NotModified { version, deadline });
                }
                Seen::Value(_) => assert!(matches!(answer, Answer::Found(_)), "{answer:?}"),
                Seen::Expired => assert_eq!(answer, Answer::Expired),
                Seen::Missing => assert_eq!(answer, Answer::Missing),
            }
        }
    }

    fn link(&mut self, key: &str, document: usize, metadata: Option<u16>) {
        let (collection, record_id) = document_of(document);
        let metadata = metadata.map(value);
        let live = self.model.live(key);
        let command = Command::Link {
            key: key.into(),
            collection: collection.as_str().into(),
            record_id: record_id.as_str().into(),
            metadata: metadata.clone(),
        };
        let reply = self.write(command, live);
        if !live {
            assert_eq!(reply.answer, Answer::Missing);
            return;
        }
        assert_eq!(reply.answer, Answer::Linked);
        let now = self.model.now;
        let entry = self.model.keys.get_mut(key).unwrap();
        entry.version = reply.sequence;
        // Linking again replaces the metadata and is no new link.
        let link = entry
            .links
            .entry((collection, record_id))
            .or_insert((None, now));
        link.0 = metadata;
    }

    fn unlink(&mut self, key: &str, document: usize) {
        let (collection, record_id) = document_of(document);
        let command = Command::Unlink {
            key: key.into(),
            collection: collection.as_str().into(),
            record_id: record_id.as_str().into(),
        };
        let live = self.model.live(key);
        let there = live
            && self.model.keys[key]
                .links
                .contains_key(&(collection.clone(), record_id.clone()));
        let reply = self.write(command, there);
        let expected = match (live, there) {
            (false, _) => Answer::Missing,
            (true, false) => Answer::NotLinked,
            (true, true) => Answer::Unlinked,
        };
        assert_eq!(reply.answer, expected);
        if there {
            let entry = self.model.keys.get_mut(key).unwrap();
            entry.version = reply.sequence;
            entry.links.remove(&(collection, record_id));
        }
    }

    fn links(&mut self, key: &str) {
        let answer = self
            .subject
            .call(Command::Links { key: key.into() })
            .unwrap()
            .answer;
        if !self.model.live(key) {
            assert_eq!(answer, Answer::Missing);
            return;
        }
        let expected: Vec<Link> = self.model.keys[key]
            .links
            .iter()
            .map(|((collection, record_id), (metadata, created_at))| Link {
                collection: collection.as_str().into(),
                record_id: record_id.as_str().into(),
                metadata: metadata.clone(),
                created_at: *created_at,
            })
            .collect();
        assert_eq!(answer, Answer::Links(expected));
    }

    fn find(&mut self, filter: &Filter) {
        let query = Arc::new(Query::new(filter.clone()).unwrap());
        let mut cursor = Cursor::default();
        let mut found = Vec::new();
        let mut pace = FindPace::default();
        loop {
            let store = &self.subject.running.as_ref().unwrap().0;
            let slice = store.find(Arc::clone(&query), cursor, &mut pace);
            let answer = self.subject.runtime.block_on(slice).unwrap().answer;
            let Answer::Slice(slice) = answer else {
                panic!("a find is answered by a slice");
            };
            found.extend(slice.records.into_iter().map(|record| {
                let version = match record.hit {
                    Hit::Live { value, version } => Some((value.unwrap(), version)),
                    Hit::Expired => None,
                };
                (record.key.into_string(), version, record.deadline)
            }));
            match slice.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        let matches = |key: &str| {
            let starts = |text: &String| key.starts_with(text.as_str());
            let ends = |text: &String| key.ends_with(text.as_str());
            let expression = |text: &String| regex::Regex::new(text).unwrap().is_match(key);
            filter.prefix.as_ref().is_none_or(starts)
                && filter.suffix.as_ref().is_none_or(ends)
                && filter.pattern.as_ref().is_none_or(expression)
        };
        let mut expected: Vec<_> = self
            .model
            .keys
            .iter()
            .filter(|(key, _)| matches(key))
            .filter_map(|(key, entry)| match self.model.see(key) {
                Seen::Value(shown) => Some((
                    key.clone(),
                    Some((shown.value, shown.version)),
                    shown.deadline,
                )),
                Seen::Expired if filter.include_expired => {
                    Some((key.clone(), None, entry.deadline))
                }
                Seen::Expired | Seen::Missing => None,
            })
            .collect();
        if filter.reverse {
            expected.reverse();
        }
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let expected: Vec<_> = expected
            .into_iter()
            .skip(filter.offset as usize)
            .take(limit)
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }

    fn get(&mut self, key: &str) {
        let command = Command::Get {
            key: key.into(),
            unless: None,
        };
        let reply = self.subject.call(command).unwrap();
        assert!(reply.sequence >= self.model.sequence, "{reply:?}");
        let seen = match reply.answer {
            Answer::Found(found) => Seen::Value(shown(found)),
            Answer::Expired => Seen::Expired,
            Answer::Missing => Seen::Missing,
            other => panic!("{other:?}"),
        };
        assert_eq!(seen, self.model.see(key), "{key} at {}", self.model.now);
    }

    fn set(&mut self, k: usize, content: u16, bare: bool, life: Life, condition: If) {
        let ttl = life.ttl(ekokv::clock::Clock::now_ms(self.subject.clock.as_ref()));
        let form = if bare { Form::Bare } else { Form::Envelope };
        let put = Put {
            key: key(k).into(),
            value: value(content),
            form,
            ttl,
        };
        let condition = self.condition(&key(k), condition);
        let holds = self.model.holds(&key(k), &condition);
        let command = Command::Set { put, condition };
        if matches!(ttl, Ttl::At(at) if at <= self.model.now) {
            let error = self.subject.call(command).unwrap_err();
            assert!(matches!(error, Error::TtlOutOfRange { .. }), "{error}");
            return;
        }
        if !holds {
            return self.refused(command, &key(k));
        }
        let deadline = self.model.resolve(ttl);
        let reply = self.write(command, true);
        let version = reply.sequence;
        assert_eq!(reply.answer, Answer::Stored { version, deadline });
        let shown = Shown {
            value: value(content),
            form,
            deadline,
            version,
        };
        self.model.put(&key(k), shown);
    }

    fn batch_get(&mut self, keys: &[usize]) {
        let command = Command::BatchGet {
            keys: keys.iter().map(|k| key(*k).into()).collect(),
        };
        let reply = self.subject.call(command).unwrap();
        let Answer::FoundMany(found) = reply.answer else {
            panic!("{:?}", reply.answer)
        };
        let found: Vec<Option<Shown>> = found.into_iter().map(|f| f.map(shown)).collect();
        let expected: Vec<Option<Shown>> = keys
            .iter()
            .map(|k| match self.model.see(&key(*k)) {
                Seen::Value(entry) => Some(entry),
                Seen::Expired | Seen::Missing => None,
            })
            .collect();
        assert_eq!(found, expected);
    }

    fn batch_set(&mut self, puts: &[(usize, u16, Life)]) {
        let clock = ekokv::clock::Clock::now_ms(self.subject.clock.as_ref());
        let puts: Vec<Put> = puts
            .iter()
            .map(|(k, content, life)| Put {
                key: key(*k).into(),
                value: value(*content),
                form: Form::Envelope,
                ttl: life.ttl(clock),
            })
            .collect();
        if puts
            .iter()
            .any(|put| matches!(put.ttl, Ttl::At(at) if at <= self.model.now))
        {
            let error = self.subject.call(Command::BatchSet { puts }).unwrap_err();
            assert!(
                matches!(error, Error::TtlOutOfRange { .. }),
                "nothing of it is stored: {error}"
            );
            return;
        }
        // Of equal keys the last wins; each changed key takes one sequence, without gaps.
        let winners: Vec<usize> = (0..puts.len())
            .filter(|i| !puts[i + 1..].iter().any(|later| later.key == puts[*i].key))
            .collect();
        let changes = !winners.is_empty();
        let reply = self.write(Command::BatchSet { puts: puts.clone() }, changes);
        assert_eq!(reply.answer, Answer::StoredMany);
        let first = reply.sequence + 1 - winners.len() as u64;
        for (version, i) in (first..).zip(winners) {
            let put = &puts[i];
            let deadline = self.model.resolve(put.ttl);
            let shown = Shown {
                value: put.value.clone(),
                form: put.form,
                deadline,
                version,
            };
            self.model.put(&put.key, shown);
        }
    }
}

fn set(put: Put) -> Command {
    Command::Set {
        put,
        condition: Condition::None,
    }
}

fn get(key: &str) -> Command {
    Command::Get {
        key: key.into(),
        unless: None,
    }
}

fn shown(found: Found) -> Shown {
    let Found {
        value,
        form,
        version,
        deadline,
    } = found;
    Shown {
        value,
        form,
        deadline,
        version,
    }
}

fn document_of(index: usize) -> (String, String) {
    [("users", "1"), ("users", "2"), ("orders", "1")]
        .map(|(collection, id)| (collection.to_owned(), id.to_owned()))[index]
        .clone()
}

fn check(durability: Durability, steps: &[Step]) {
    let model = Model {
        keys: BTreeMap::new(),
        now: START_MS,
        behind: None,
        sequence: 0,
    };
    let mut test = Test {
        subject: Subject::new(durability),
        model,
    };
    for step in steps {
        test.take(step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("EKOKV_TEST_LONG").is_some() { 3_000 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn always_equals_the_model_after_each_step(steps in prop::collection::vec(step(), 1..60)) {
        check(Durability::Always, &steps);
    }

    #[test]
    fn os_equals_the_model_after_each_step(steps in prop::collection::vec(step(), 1..60)) {
        check(Durability::Os, &steps);
    }
}

#[test]
fn what_expired_never_returns_even_if_the_clock_is_back_after_a_restart() {
    let mut subject = Subject::new(Durability::Always);
    let ttl = Ttl::After(Duration::from_secs(2));
    let put = |key: &str, ttl| Put {
        key: key.into(),
        value: value(1),
        form: Form::Bare,
        ttl,
    };
    subject.call(set(put("k", ttl))).unwrap();
    subject.clock.advance(3_000);
    let get = || get("k");
    assert_eq!(subject.call(get()).unwrap().answer, Answer::Expired);
    subject.clock.set(START_MS - 3_600_000);
    assert_eq!(subject.call(get()).unwrap().answer, Answer::Expired);
    subject.restart();
    assert_eq!(subject.call(get()).unwrap().answer, Answer::Expired);
    // Time goes on from where it was, not from what the clock shows.
    let stored = subject.call(set(put("other", ttl))).unwrap().answer;
    let Answer::Stored {
        deadline: Some(deadline),
        ..
    } = stored
    else {
        panic!("{stored:?}")
    };
    assert!(deadline >= START_MS + 3_000 + 2_000, "{deadline}");
}

#[test]
fn a_value_past_its_deadline_is_given_back_without_anyone_reading_it() {
    let subject = Subject::new(Durability::Always);
    let ttl = Ttl::After(Duration::from_secs(2));
    let put = Put {
        key: "k".into(),
        value: value(900),
        form: Form::Bare,
        ttl,
    };
    let stored = subject.call(set(put)).unwrap();
    subject.clock.advance(2_000);
    // Other commands only; the purge takes a sequence of its own once it has happened, and the next
    // answer shows it.
    let other = || get("other");
    let begin = std::time::Instant::now();
    while subject.call(other()).unwrap().sequence == stored.sequence {
        assert!(begin.elapsed() < Duration::from_secs(30), "never purged");
    }
}

#[test]
fn callers_that_do_not_wait_change_nothing() {
    let subject = Subject::new(Durability::Always);
    let store = subject.running.as_ref().unwrap().0.clone();
    subject.runtime.block_on(async {
        let put = Put {
            key: "k".into(),
            value: value(1),
            form: Form::Bare,
            ttl: Ttl::None,
        };
        // Polled once, so that it is sent, and then dropped.
        let mut call = Box::pin(store.call(set(put)));
        std::future::poll_fn(|context| {
            let _ = call.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
        drop(call);
        let reply = store.call(get("k")).await.unwrap();
        assert!(matches!(reply.answer, Answer::Found(_)), "{reply:?}");
    });
}
