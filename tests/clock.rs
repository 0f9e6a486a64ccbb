//! Clocks that are set, forwards and backwards, in a run and between two: what readers see, what the log
//! carries, and what becomes of deadlines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod sim;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ekokv::clock::ManualClock;
use ekokv::state::Form;
use ekokv::store::{
    Answer, Command, Condition, Durability, Found, Opened, Options, Put, Reply, Store, Ttl,
};
use ekokv_wal::SimDisk;

const BEGIN_MS: u64 = 1_800_000_000_000;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
/// As `sim::options` has them.
const GRACE_MS: u64 = 10 * MINUTE_MS;
const RETENTION_MS: u64 = 10 * MINUTE_MS;

/// A store that is restarted on its disk, and the clock it is given.
struct Subject {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    opened: Option<Opened>,
    runtime: tokio::runtime::Runtime,
}

impl Subject {
    fn new() -> Self {
        let mut subject = Self {
            disk: SimDisk::new(),
            clock: Arc::new(ManualClock::new(BEGIN_MS)),
            opened: None,
            runtime: sim::runtime(),
        };
        subject.open();
        subject
    }

    fn open(&mut self) {
        let options = Options {
            clock: self.clock.clone(),
            segment_bytes: 1 << 20,
            ..sim::options(Durability::Always)
        };
        self.opened = Some(Store::open_on(options, Arc::new(self.disk.clone())).unwrap());
    }

    /// Stops, lets the clock be set, and starts again.
    fn restart(&mut self, set: impl FnOnce(&ManualClock)) {
        sim::stop(self.opened.take().unwrap());
        set(&self.clock);
        self.open();
    }

    fn call(&self, command: Command) -> Reply {
        let store = &self.opened.as_ref().unwrap().store;
        self.runtime.block_on(store.call(command)).unwrap()
    }

    fn set(&self, key: &str, ttl: Ttl) -> u64 {
        let put = put(key, ttl);
        let condition = Condition::None;
        match self.call(Command::Set { put, condition }).answer {
            Answer::Stored { deadline, .. } => deadline.unwrap_or(0),
            other => panic!("{other:?}"),
        }
    }

    fn set_for(&self, key: &str, ms: u64) -> u64 {
        self.set(key, Ttl::After(Duration::from_millis(ms)))
    }

    fn get(&self, key: &str) -> Answer {
        self.call(sim::get(key)).answer
    }

    fn found(&self, key: &str) -> Found {
        match self.get(key) {
            Answer::Found(found) => found,
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Both words of the health.
    fn health(&self) -> (bool, bool) {
        let health = self.opened.as_ref().unwrap().store.health();
        (health.degraded, health.integrity_ok)
    }

    fn link(&self, key: &str) {
        let command = Command::Link {
            key: key.into(),
            collection: "users".into(),
            record_id: "1".into(),
            metadata: None,
        };
        assert_eq!(self.call(command).answer, Answer::Linked);
    }

    /// Lets the grace pass, in steps.
    fn wait_out(&self) {
        for _ in 0..GRACE_MS / MINUTE_MS {
            self.clock.advance(MINUTE_MS);
            self.get("nothing");
        }
    }

    /// Waits until nothing is purged any more.
    fn purged(&self, since: u64) {
        let begin = Instant::now();
        while self.call(sim::get("nothing")).sequence <= since {
            assert!(begin.elapsed() < Duration::from_secs(30), "never purged");
        }
    }
}

fn put(key: &str, ttl: Ttl) -> Put {
    Put {
        key: key.into(),
        value: Bytes::from_static(b"1"),
        form: Form::Bare,
        ttl,
    }
}

const OK: (bool, bool) = (false, true);
const DEGRADED: (bool, bool) = (true, true);

#[test]
fn row_49_a_leap_in_a_run_is_shown_when_it_has_held_for_the_grace() {
    let subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    assert_eq!(subject.health(), OK);
    subject.clock.set(BEGIN_MS + YEAR_MS);
    subject.found("k");
    assert_eq!(subject.health(), DEGRADED);
    subject.clock.advance(GRACE_MS - 1);
    subject.found("k");
    // A life of an hour counts from what is confirmed.
    let deadline = subject.set_for("later", HOUR_MS);
    assert_eq!(deadline, BEGIN_MS + GRACE_MS - 1 + HOUR_MS);
    assert_eq!(subject.health(), DEGRADED);
    subject.clock.advance(1);
    assert!(!matches!(subject.get("k"), Answer::Found(_)));
    assert_eq!(subject.health(), OK);
}

#[test]
fn row_49_a_leap_in_a_run_that_is_taken_back_has_changed_nothing() {
    let mut subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    subject.clock.set(BEGIN_MS + YEAR_MS);
    subject.set_for("meanwhile", HOUR_MS);
    subject.clock.advance(GRACE_MS / 2);
    subject.found("k");
    assert_eq!(subject.health(), DEGRADED);
    subject.clock.set(BEGIN_MS + GRACE_MS / 2);
    subject.found("k");
    assert_eq!(subject.health(), OK);
    // Nor was it logged.
    subject.restart(|_| {});
    subject.found("k");
    subject.found("meanwhile");
    subject.clock.advance(HOUR_MS - GRACE_MS / 2);
    assert_eq!(subject.get("k"), Answer::Expired);
    assert_eq!(subject.get("meanwhile"), Answer::Expired);
}

#[test]
fn row_49_a_leap_that_a_crash_interrupts_was_not_logged() {
    let mut subject = Subject::new();
    subject.set_for("k", 30 * 24 * HOUR_MS);
    subject.clock.set(BEGIN_MS + YEAR_MS);
    subject.set_for("meanwhile", HOUR_MS);
    subject.restart(|clock| clock.set(BEGIN_MS));
    subject.found("k");
    assert_eq!(subject.set_for("new", HOUR_MS), BEGIN_MS + HOUR_MS);
    assert_eq!(subject.health(), OK);
}

#[test]
fn row_48_a_minute_is_a_minute_while_the_clock_is_an_hour_behind() {
    let mut subject = Subject::new();
    subject.set_for("before", MINUTE_MS);
    subject.clock.set(BEGIN_MS - HOUR_MS);
    subject.set_for("k", MINUTE_MS);
    subject.clock.advance(59 * SECOND_MS);
    subject.found("k");
    subject.clock.advance(2 * SECOND_MS);
    assert_eq!(subject.get("before"), Answer::Expired);
    assert_eq!(subject.get("k"), Answer::Expired);
    assert_eq!(subject.health(), OK, "time goes on");
    // What expired never returns, and time goes on from where it was.
    subject.restart(|_| {});
    assert_eq!(subject.get("k"), Answer::Expired);
    let deadline = subject.set_for("new", MINUTE_MS);
    assert!(deadline >= BEGIN_MS + 2 * MINUTE_MS, "{deadline}");
    subject.clock.advance(RETENTION_MS + MINUTE_MS);
    assert_eq!(subject.get("k"), Answer::Missing);
}

#[test]
fn row_49_a_start_a_year_ahead_hides_and_shows_again_when_the_clock_is_set_right() {
    let mut subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    subject.set("endless", Ttl::None);
    subject.link("k");
    let before = subject.found("k");
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    assert_eq!(
        subject.get("k"),
        Answer::Missing,
        "forgotten long ago, if so"
    );
    subject.found("endless");
    assert_eq!(subject.health(), DEGRADED);
    subject.clock.advance(GRACE_MS - 1);
    assert_eq!(subject.get("k"), Answer::Missing);
    subject.clock.set(BEGIN_MS + GRACE_MS);
    assert_eq!(
        subject.found("k"),
        before,
        "it was neither purged nor changed"
    );
    assert_eq!(subject.health(), OK);
    subject.clock.advance(HOUR_MS - GRACE_MS);
    assert_eq!(subject.get("k"), Answer::Expired);
}

#[test]
fn row_49_what_a_leap_at_a_start_hid_is_there_after_a_restart_with_the_right_clock() {
    let mut subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    let before = subject.found("k");
    for _ in 0..3 {
        // Writes carry no time that is in doubt.
        subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
        assert_eq!(subject.get("k"), Answer::Missing);
        subject.set("other", Ttl::None);
        subject.clock.advance(GRACE_MS / 2);
        assert_eq!(subject.get("k"), Answer::Missing);
        assert_eq!(subject.health(), DEGRADED);
    }
    subject.restart(|clock| clock.set(BEGIN_MS + 30 * MINUTE_MS));
    assert_eq!(subject.found("k"), before);
    assert_eq!(subject.health(), OK);
}

#[test]
fn row_49_a_leap_at_a_start_that_held_counts_for_good() {
    let mut subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    let before = subject.call(sim::get("k")).sequence;
    subject.wait_out();
    assert_eq!(subject.health(), OK);
    subject.purged(before);
    for _ in 0..2 {
        subject.restart(|clock| clock.set(BEGIN_MS));
        assert_eq!(subject.get("k"), Answer::Missing);
    }
}

#[test]
fn a_life_that_begins_in_a_start_in_doubt_is_as_long_as_it_was_told_if_the_leap_is_taken_back() {
    let mut subject = Subject::new();
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    let keys: Vec<String> = (0..600).map(|index| format!("k{index}")).collect();
    for keys in keys.chunks(10) {
        let ttl = Ttl::After(Duration::from_millis(MINUTE_MS));
        let mut puts: Vec<Put> = keys.iter().map(|key| put(key, ttl)).collect();
        // Of equal keys the last is stored.
        puts[0].key = puts[9].key.clone();
        puts[0].ttl = Ttl::None;
        subject.call(Command::BatchSet { puts });
        subject.set_for(&keys[0], MINUTE_MS);
    }
    let deadline = subject.found("k7").deadline;
    assert_eq!(deadline, Some(BEGIN_MS + YEAR_MS + MINUTE_MS));
    subject.link("k7");
    subject.set_for("short", SECOND_MS);
    let until = BEGIN_MS + 2 * YEAR_MS;
    subject.set("absolute", Ttl::At(until));
    subject.clock.advance(30 * SECOND_MS);
    subject.found("k7");
    assert_eq!(subject.get("short"), Answer::Expired);

    subject.clock.set(BEGIN_MS + 30 * SECOND_MS);
    for key in &keys {
        let deadline = subject.found(key).deadline;
        assert_eq!(deadline, Some(BEGIN_MS + MINUTE_MS), "{key}");
    }
    assert_eq!(subject.get("short"), Answer::Expired, "it never returns");
    assert_eq!(subject.found("absolute").deadline, Some(until));
    match subject.call(Command::Links { key: "k7".into() }).answer {
        Answer::Links(links) => assert_eq!(links.len(), 1),
        other => panic!("{other:?}"),
    }
    subject.restart(|_| {});
    assert_eq!(
        subject.found("k7").deadline,
        Some(BEGIN_MS + MINUTE_MS),
        "it is logged"
    );
    subject.clock.advance(30 * SECOND_MS);
    for key in &keys {
        assert_eq!(subject.get(key), Answer::Expired, "{key}");
    }
    println!("{} deadlines were moved back", keys.len());
}

#[test]
fn a_life_that_begins_in_a_start_in_doubt_goes_on_if_the_leap_is_confirmed() {
    let mut subject = Subject::new();
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    let deadline = subject.set_for("k", HOUR_MS);
    let before = subject.found("k");
    subject.wait_out();
    assert_eq!(subject.health(), OK);
    assert_eq!(subject.found("k"), before);
    assert_eq!(deadline, BEGIN_MS + YEAR_MS + HOUR_MS);
    subject.clock.advance(HOUR_MS - GRACE_MS - 1);
    subject.found("k");
    subject.clock.advance(1);
    assert_eq!(subject.get("k"), Answer::Expired);
}

#[test]
fn what_is_set_over_a_key_that_a_leap_hides_has_none_of_its_links() {
    let mut subject = Subject::new();
    subject.set_for("k", HOUR_MS);
    subject.link("k");
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    let links = || Command::Links { key: "k".into() };
    assert_eq!(subject.call(links()).answer, Answer::Missing);
    subject.set("k", Ttl::None);
    assert_eq!(subject.call(links()).answer, Answer::Links(Vec::new()));
    subject.clock.set(BEGIN_MS);
    assert_eq!(subject.call(links()).answer, Answer::Links(Vec::new()));
    assert_eq!(subject.found("k").deadline, None);
}

#[test]
fn what_is_deleted_while_a_leap_hides_it_is_gone_when_the_leap_is_taken_back() {
    let mut subject = Subject::new();
    for key in ["one", "many", "untouched"] {
        subject.set_for(key, HOUR_MS);
        subject.link(key);
    }
    subject.restart(|clock| clock.set(BEGIN_MS + YEAR_MS));
    let delete = Command::Delete {
        key: "one".into(),
        condition: Condition::None,
    };
    assert_eq!(subject.call(delete).answer, Answer::Deleted(false));
    let keys = vec!["many".into(), "many".into(), "nothing".into()];
    let there = subject.call(Command::BatchDelete { keys }).answer;
    assert_eq!(there, Answer::DeletedMany(vec![false; 3]));
    subject.clock.set(BEGIN_MS);
    for key in ["one", "many"] {
        let answer = subject.get(key);
        assert!(!matches!(answer, Answer::Found(_)), "{key}: {answer:?}");
        subject.set(key, Ttl::None);
        let links = Command::Links { key: key.into() };
        assert_eq!(subject.call(links).answer, Answer::Links(Vec::new()));
    }
    assert_eq!(
        subject.found("untouched").deadline,
        Some(BEGIN_MS + HOUR_MS)
    );
}

#[test]
fn row_49_a_leap_is_noticed_though_nobody_asks_for_anything() {
    let subject = Subject::new();
    subject.set("k", Ttl::None);
    for (set, expected) in [(BEGIN_MS + HOUR_MS, DEGRADED), (BEGIN_MS, OK)] {
        subject.clock.set(set);
        let begin = Instant::now();
        while subject.health() != expected {
            assert!(begin.elapsed() < Duration::from_secs(60), "never noticed");
            std::thread::yield_now();
        }
    }
}
