//! The owner without its threads: what is answered when, with the committer's part played by hand.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ekokv_wal::{Draft, Log, Mode, SimDisk};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::clock::ManualClock;
use crate::state::Form;
use crate::state::find::{Cursor, Filter, Query};
use crate::store::command::{Command, Condition, Put, Reply, Tags, Ttl};
use crate::store::frame::{OpenFrame, Patience, Work};
use crate::store::mailbox::{MAILBOX_COMMANDS_MAX, Mailbox, Taken};
use crate::store::seat::{Outcome, Seat};

const NOW_MS: u64 = 1_000_000;

type Receiver = oneshot::Receiver<Result<Reply, Error>>;

/// An owner on a log that nobody writes to but the test.
struct Bench {
    owner: Owner,
    log: Log,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new(segment_bytes: u64, max_memory_bytes: u64) -> Self {
        let salt = std::sync::atomic::AtomicU64::new(1);
        let options = ekokv_wal::Options {
            segment_bytes,
            first_segment_bytes: segment_bytes,
            mode: Mode::Always,
            random: Arc::new(move || {
                Ok(u128::from(salt.fetch_add(1, Ordering::Relaxed)).to_le_bytes())
            }),
        };
        let disk = Arc::new(SimDisk::new());
        let first = Draft {
            count: 0,
            time: NOW_MS,
            records: &[],
        };
        let log = Log::create(disk, options, |_| Ok(()), first).unwrap();
        let frame = OpenFrame::new(0, segment_bytes / 4);
        let state = State::new(1_000);
        let keyring = state.keyring().clone();
        let shared = Shared::new(frame, log.shared_room(), log.spares(), keyring, false);
        let clock = Arc::new(ManualClock::new(NOW_MS));
        let owner = Owner {
            shared: Arc::new(shared),
            state,
            applied: 0,
            timekeeper: Timekeeper::new(clock.clone(), 600_000, Some(NOW_MS)),
            logged: NOW_MS,
            now: Now {
                shown: NOW_MS,
                logged: NOW_MS,
                hiding: 0,
            },
            carried: 0,
            provisional: Provisional::default(),
            max_memory_bytes,
            progress: Progress::default(),
        };
        Self { owner, log, clock }
    }

    fn send(&mut self, command: Command) -> Receiver {
        let (reply_to, receiver) = oneshot::channel();
        self.owner.carry_out(&command, reply_to);
        receiver
    }

    /// Takes the frame, as the committer does.
    fn take(&mut self) -> crate::store::frame::Frame {
        self.owner.shared.frame.settle();
        match self.owner.shared.frame.next(Patience::Endless) {
            Work::Commit(frame) => frame,
            Work::Idle | Work::Stalled | Work::Stop | Work::Fail => {
                panic!("there is nothing to write")
            }
        }
    }

    /// Writes the frame, syncs it and lets the answers go.
    fn commit(&mut self) {
        let frame = self.take();
        let draft = Draft {
            count: frame.count,
            time: frame.time,
            records: &frame.records,
        };
        self.log.append(draft).unwrap();
        self.log.sync().unwrap();
        self.owner.shared.frame.written();
        self.owner.shared.frame.release(frame.last_sequence, frame);
        self.owner
            .state
            .released(self.owner.shared.frame.released());
    }
}

fn set(key: &str) -> Command {
    set_value(key, Bytes::from_static(b"1"))
}

fn set_value(key: &str, value: Bytes) -> Command {
    set_until(key, value, Ttl::None)
}

fn set_until(key: &str, value: Bytes, ttl: Ttl) -> Command {
    let put = Put {
        key: key.into(),
        value,
        form: Form::Bare,
        ttl,
    };
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

fn delete(key: &str) -> Command {
    Command::Delete {
        key: key.into(),
        condition: Condition::None,
    }
}

fn waits(receiver: &mut Receiver) -> bool {
    matches!(receiver.try_recv(), Err(TryRecvError::Empty))
}

fn answer(receiver: &mut Receiver) -> Reply {
    receiver.try_recv().unwrap().unwrap()
}

#[test]
fn no_answer_shows_what_a_crash_could_take_back_and_quiet_keys_do_not_wait() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.send(set("quiet"));
    bench.send(set("deleted"));
    bench.commit();

    let mut write = bench.send(set("busy"));
    let mut read = bench.send(get("busy"));
    let mut removal = bench.send(delete("deleted"));
    let mut miss = bench.send(get("deleted"));
    let mut second_removal = bench.send(delete("deleted"));
    let both = vec!["quiet".into(), "busy".into()];
    let mut batch = bench.send(Command::BatchGet { keys: both });
    let query = Arc::new(
        Query::new(Filter {
            prefix: Some("d".into()),
            ..Filter::default()
        })
        .unwrap(),
    );
    let mut find = bench.send(Command::Find {
        query,
        cursor: Cursor::default(),
    });
    for (name, receiver) in [
        ("write", &mut write),
        ("read", &mut read),
        ("removal", &mut removal),
        ("miss", &mut miss),
        ("second removal", &mut second_removal),
        ("batch", &mut batch),
        ("find", &mut find),
    ] {
        assert!(waits(receiver), "{name} did not wait");
    }
    // Neither a key that is not being written nor one that never was has anything to wait for, and
    // what they say is current up to the released sequence only.
    assert_eq!(answer(&mut bench.send(get("quiet"))).sequence, 2);
    assert_eq!(
        answer(&mut bench.send(get("never"))).answer,
        Answer::Missing
    );

    bench.commit();
    assert_eq!(answer(&mut write).sequence, 3);
    assert!(matches!(answer(&mut read).answer, Answer::Found(_)));
    assert_eq!(answer(&mut removal).answer, Answer::Deleted(true));
    assert_eq!(answer(&mut miss).answer, Answer::Missing);
    assert_eq!(answer(&mut second_removal).answer, Answer::Deleted(false));
    assert!(matches!(answer(&mut batch).answer, Answer::FoundMany(_)));
    assert!(matches!(answer(&mut find).answer, Answer::Slice(_)));
}

#[test]
fn until_a_clear_is_released_it_gates_every_miss_and_every_find() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.send(set("a"));
    bench.commit();
    let mut clear = bench.send(Command::Clear);
    let mut miss = bench.send(get("a"));
    let mut never = bench.send(get("never"));
    let query = Arc::new(Query::new(Filter::default()).unwrap());
    let mut find = bench.send(Command::Find {
        query,
        cursor: Cursor::default(),
    });
    let mut again = bench.send(Command::Clear);
    for receiver in [&mut clear, &mut miss, &mut never, &mut find, &mut again] {
        assert!(waits(receiver));
    }
    bench.commit();
    assert_eq!(answer(&mut clear).sequence, 2);
    assert_eq!(
        answer(&mut again).sequence,
        2,
        "it changed nothing and took no sequence"
    );
    for receiver in [&mut miss, &mut never] {
        assert_eq!(answer(receiver).answer, Answer::Missing);
    }
    assert!(matches!(answer(&mut find).answer, Answer::Slice(slice) if slice.records.is_empty()));
}

#[test]
fn a_read_that_is_queued_while_its_sequence_is_released_is_answered() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.send(set("a"));
    let frame = bench.take();
    // Between the read's decision to wait and its place in the queue the committer has finished.
    let (reply_to, mut receiver) = oneshot::channel();
    bench.owner.shared.frame.release(frame.last_sequence, frame);
    bench
        .owner
        .shared
        .frame
        .queue(1, 1, reply_to, Answer::Missing);
    assert_eq!(answer(&mut receiver).sequence, 1);
}

/// Keys whose deadline passes with the next second.
fn expire(bench: &mut Bench, keys: usize) {
    for index in 0..keys {
        let ttl = Ttl::At(NOW_MS + 1_000);
        bench.send(set_until(&index.to_string(), Bytes::from_static(b"1"), ttl));
    }
    bench.commit();
    bench.clock.advance(1_000);
}

#[test]
fn row_48_what_a_deadline_hides_waits_until_the_log_knows_of_it() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    // More than are purged in one turn.
    expire(&mut bench, 300);
    bench.send(set("quiet"));
    bench.commit();
    assert!(!bench.owner.tell_time());
    let mut hidden: Vec<Receiver> = (0..300)
        .map(|index| bench.send(get(&index.to_string())))
        .collect();
    let mut removal = bench.send(delete("299"));
    let both = vec!["quiet".into(), "299".into()];
    let mut batch = bench.send(Command::BatchGet { keys: both });
    let query = Arc::new(Query::new(Filter::default()).unwrap());
    let mut find = bench.send(Command::Find {
        query,
        cursor: Cursor::default(),
    });
    for receiver in hidden
        .iter_mut()
        .chain([&mut removal, &mut batch, &mut find])
    {
        assert!(waits(receiver));
    }
    let found = answer(&mut bench.send(get("quiet"))).answer;
    assert!(matches!(found, Answer::Found(_)), "nothing hides it");

    let frame = bench.take();
    assert_eq!(frame.time, NOW_MS + 1_000);
    bench.owner.shared.frame.release(frame.last_sequence, frame);
    for receiver in &mut hidden {
        assert_eq!(answer(receiver).answer, Answer::Expired);
    }
    assert_eq!(answer(&mut removal).answer, Answer::Deleted(false));
    assert!(matches!(answer(&mut batch).answer, Answer::FoundMany(_)));
    assert!(matches!(answer(&mut find).answer, Answer::Slice(_)));
}

#[test]
fn long_keys_that_are_due_all_at_once_are_purged_a_few_at_a_time() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    // Their names alone take more than a segment.
    for index in 0..150 {
        bench.log.spares().prepare(&mut || true).unwrap();
        let key = format!("{index}{}", "k".repeat(8_000));
        let ttl = Ttl::At(NOW_MS + 1_000);
        bench.send(set_until(&key, Bytes::from_static(b"1"), ttl));
        bench.commit();
    }
    bench.clock.advance(1_000);
    let is_due = |bench: &Bench| {
        let due = bench.owner.state.next_due();
        due.is_some_and(|due| due <= NOW_MS + 1_000)
    };
    let mut turns = 0;
    while is_due(&bench) {
        assert!(!bench.owner.tell_time(), "the log had no room");
        bench.log.spares().prepare(&mut || true).unwrap();
        bench.commit();
        turns += 1;
        assert!(turns < 100);
    }
    assert!(turns > 1);
}

#[test]
fn row_48_a_frame_that_is_full_still_tells_the_time_for_what_is_hidden() {
    let mut bench = Bench::new(64 << 10, u64::MAX);
    expire(&mut bench, 20);
    // The frame holds a quarter of the segment, all but a little of which this takes.
    bench.send(set_value(
        "large",
        Bytes::from(vec![b'1'; (16 << 10) - 100]),
    ));
    assert!(bench.owner.tell_time(), "the purge found room");
    let mut hidden = bench.send(get("19"));
    assert!(waits(&mut hidden));
    let frame = bench.take();
    assert_eq!(frame.time, NOW_MS + 1_000);
    bench.owner.shared.frame.release(frame.last_sequence, frame);
    assert_eq!(answer(&mut hidden).answer, Answer::Expired);
}

#[test]
fn a_segment_ends_between_two_requests_of_a_frame_with_the_fingerprint_of_that_moment() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.log.spares().prepare(&mut || true).unwrap();
    bench.send(set("a"));
    let then = bench.owner.state.fingerprint();
    let (reply, _replied) = std::sync::mpsc::sync_channel(1);
    bench.owner.do_chore(Chore::Rotate {
        renew: false,
        reply,
    });
    bench.send(set("b"));
    let before = bench.take();
    assert_eq!((before.count, before.last_sequence), (1, 1));
    assert_eq!(before.ticket.map(|ticket| ticket.fingerprint), Some(then));
    let behind = bench.take();
    assert_eq!((behind.count, behind.last_sequence), (1, 2));
    assert!(behind.ticket.is_none());
}

#[test]
fn a_condition_is_decided_on_what_was_applied_released_or_not() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    let set_if = |condition| match set("a") {
        Command::Set { put, .. } => Command::Set { put, condition },
        other => other,
    };
    let version = |version| Condition::Matches(Tags::OneOf(vec![version]));
    let mut first = bench.send(set_if(Condition::Absent));
    let mut second = bench.send(set_if(version(1)));
    let mut too_late = bench.send(set_if(version(1)));
    let mut there = bench.send(set_if(Condition::Absent));
    bench.commit();
    for (receiver, sequence) in [(&mut first, 1), (&mut second, 2)] {
        assert_eq!(answer(receiver).sequence, sequence);
    }
    for receiver in [&mut too_late, &mut there] {
        let refused = Answer::ConditionFailed { version: Some(2) };
        assert_eq!(answer(receiver).answer, refused);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_takes_a_sequence() {
    let mut bench = Bench::new(64 << 10, u64::MAX);
    // No spare is ready: the present segment is all there is, and a frame a quarter of it.
    let value = Bytes::from(vec![b'1'; 10 << 10]);
    let mut kept = Vec::new();
    let mut busy = None;
    for index in 0..20 {
        let mut receiver = bench.send(set_value(&index.to_string(), value.clone()));
        match receiver.try_recv() {
            Err(TryRecvError::Empty) => kept.push(receiver),
            Ok(Err(error)) => {
                busy = Some(error);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(busy, Some(Error::Busy { .. })), "{busy:?}");
    assert_eq!(bench.owner.applied, kept.len() as u64);
    bench.commit();
    for (sequence, mut receiver) in (1..).zip(kept) {
        assert_eq!(answer(&mut receiver).sequence, sequence);
    }

    // Until the segment is full, and then a spare makes room again.
    while let Err(TryRecvError::Empty) = bench.send(set_value("k", value.clone())).try_recv() {
        bench.commit();
    }
    bench.log.spares().prepare(&mut || true).unwrap();
    let mut receiver = bench.send(set_value("k", value));
    assert!(waits(&mut receiver));
    bench.commit();
    assert!(matches!(
        answer(&mut receiver).answer,
        Answer::Stored { .. }
    ));
}

#[test]
fn beyond_its_memory_only_what_grows_the_state_is_refused() {
    let mut bench = Bench::new(1 << 20, 2_000);
    let value = |length: usize| Bytes::from(vec![b'1'; length]);
    bench.send(set_value("a", value(1_000)));
    let mut refused = bench.send(set_value("b", value(1_000)));
    let refused = refused.try_recv().unwrap().unwrap_err();
    assert!(
        matches!(refused, Error::MemoryFull { limit: 2_000, .. }),
        "{refused}"
    );
    assert_eq!(bench.owner.applied, 1);
    // What replaces a value by one no larger goes on, and so do deletes.
    assert!(waits(&mut bench.send(set_value("a", value(1_000)))));
    assert!(waits(&mut bench.send(delete("a"))));
}

#[test]
fn the_links_of_a_key_stay_listable() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.send(set("a"));
    bench.commit();
    let link = |bytes: usize| Command::Link {
        key: "a".into(),
        collection: "users".into(),
        record_id: "1".into(),
        metadata: Some(Bytes::from(vec![b'1'; bytes])),
    };
    let refused = bench.send(link(9 << 20)).try_recv().unwrap().unwrap_err();
    assert!(matches!(refused, Error::LinksFull { .. }), "{refused}");
    assert_eq!(bench.owner.applied, 1);
    assert!(waits(&mut bench.send(link(1_000))));
}

#[test]
fn links_end_with_a_value_that_expired_unnoticed() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    let mut brief = set("a");
    if let Command::Set { put, .. } = &mut brief {
        put.ttl = Ttl::After(Duration::from_millis(500));
    }
    bench.send(brief);
    bench.send(Command::Link {
        key: "a".into(),
        collection: "users".into(),
        record_id: "1".into(),
        metadata: None,
    });
    bench.commit();
    // No purge comes between the deadline and the next set.
    bench.owner.now.shown += 500;
    bench.send(set("a"));
    let mut links = bench.send(Command::Links { key: "a".into() });
    bench.commit();
    assert_eq!(answer(&mut links).answer, Answer::Links(Vec::new()));
}

#[test]
fn after_the_log_failed_nobody_is_told_of_success() {
    let mut bench = Bench::new(1 << 20, u64::MAX);
    bench.send(set("before"));
    bench.commit();
    let mut waiting = bench.send(set("a"));
    let mut gated = bench.send(get("a"));
    bench.owner.shared.frame.fail();
    let mut later = bench.send(set("b"));
    for receiver in [&mut waiting, &mut gated, &mut later] {
        assert_eq!(receiver.try_recv().unwrap(), Err(Error::OutcomeUnknown));
    }
}

#[test]
fn the_mailbox_is_bounded_and_closes_behind_what_it_holds() {
    let mailbox = Mailbox::new();
    let send = || {
        let (reply_to, receiver) = oneshot::channel();
        (
            mailbox.send(Envelope {
                command: get("a"),
                reply_to,
            }),
            receiver,
        )
    };
    for _ in 0..MAILBOX_COMMANDS_MAX {
        assert_eq!(send().0, Ok(()));
    }
    assert!(matches!(send().0, Err(Error::Busy { .. })));
    mailbox.close();
    assert_eq!(send().0, Err(Error::Stopping));
    let mut taken = Taken::default();
    assert!(mailbox.take(&mut taken), "what was accepted is handed out");
    assert_eq!(taken.envelopes.len(), MAILBOX_COMMANDS_MAX);
    taken.envelopes.clear();
    assert!(!mailbox.take(&mut taken));
}

#[test]
fn standing_back_leaves_commands_to_others_until_it_is_called() {
    let mailbox = Mailbox::new();
    let (reply_to, _) = oneshot::channel();
    let command = get("a");
    assert_eq!(mailbox.send(Envelope { command, reply_to }), Ok(()));
    let (started, time) = (Instant::now(), Duration::from_millis(1));
    mailbox.stand_back(time);
    assert!(
        started.elapsed() >= time,
        "a command is no reason to end it"
    );
    mailbox.call();
    mailbox.stand_back(Duration::MAX);
    // A command that waits is enough to be awake.
    mailbox.wait(Duration::MAX);
    let mut taken = Taken::default();
    assert!(mailbox.take(&mut taken));
    assert_eq!(taken.envelopes.len(), 1);
}

#[test]
fn a_turn_without_a_command_is_nobodys_work() {
    let mut bench = Bench::new(1 << 20, 1 << 20);
    let turns = |bench: &Bench| bench.owner.shared.turns.load(Ordering::Relaxed);
    let before = turns(&bench);
    let turn = bench.owner.serve(&mut Taken::default());
    assert!(turn.is_open && !turn.was_asked);
    assert_eq!(turns(&bench), before);
    bench.owner.serve_one(&get("a"), oneshot::channel().0);
    assert_ne!(turns(&bench), before);
}

/// A command that is left because the seat is taken.
fn leave(seat: &Seat) -> Receiver {
    match seat.call(get("a")) {
        Outcome::Later(left) => left,
        Outcome::Now(_) | Outcome::Lone(_) => panic!("the seat is taken"),
    }
}

#[test]
fn a_command_that_finds_the_seat_taken_is_carried_out_by_whoever_comes_next() {
    // Nobody plays the owner's thread here.
    let seat = Seat::new(Bench::new(1 << 20, 1 << 20).owner);
    let taken = seat.take().unwrap();
    let mut left = leave(&seat);
    assert!(waits(&mut left));
    drop(taken);
    let Outcome::Now(Ok(reply)) = seat.call(get("b")) else {
        panic!("the seat is free, and nothing is unreleased");
    };
    assert_eq!(reply.answer, Answer::Missing);
    assert_eq!(answer(&mut left).answer, Answer::Missing);
    seat.take().unwrap().end();
    let ended = seat.call(get("a"));
    assert!(matches!(ended, Outcome::Now(Err(Error::Stopping))));
}

#[test]
fn a_command_that_finds_the_seat_taken_by_a_prefetch_is_carried_out_behind_it() {
    let seat = Seat::new(Bench::new(1 << 20, 1 << 20).owner);
    let taken = seat.take().unwrap();
    let mut left = leave(&seat);
    seat.prefetch("a");
    assert!(waits(&mut left), "it is still taken");
    drop(taken);
    seat.prefetch("b");
    assert_eq!(answer(&mut left).answer, Answer::Missing);
}

#[test]
fn the_owners_thread_is_called_once_for_a_deadline_before_it_would_look() {
    let mut bench = Bench::new(1 << 20, 1 << 20);
    let _ = bench.owner.patience();
    assert!(!bench.owner.is_due_earlier());
    let soon = Ttl::After(Duration::from_millis(100));
    drop(bench.send(set_until("a", Bytes::from_static(b"1"), soon)));
    assert!(bench.owner.is_due_earlier());
    assert!(!bench.owner.is_due_earlier(), "it was called");
    assert_eq!(bench.owner.patience(), Duration::from_millis(100));
}

#[test]
fn a_delete_without_room_in_the_log_comes_back_while_a_compaction_may_make_some() {
    let mut bench = Bench::new(64 << 10, u64::MAX);
    let mut keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    for key in &keys {
        drop(bench.send(set(key)));
    }
    bench.commit();
    // No segment is ready, and there is no room for one.
    let full = SimDisk::new();
    full.set_capacity(Some(0));
    let space = &bench.owner.shared.space;
    space.sample(&full);
    assert!(!space.has_segment(&bench.owner.shared.logged));
    let mut refused = loop {
        let key = keys
            .last()
            .expect("the segment is full before all are deleted");
        match bench.send(delete(key)).try_recv() {
            Ok(outcome) => break outcome,
            Err(_) => bench.commit(),
        }
        keys.pop();
    };
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    for (is_stuck, is_full) in [(true, true), (false, false)] {
        bench.owner.shared.space.set_stuck(is_stuck);
        refused = bench.send(delete("k0")).try_recv().unwrap();
        let is_told = matches!(refused, Err(Error::SpaceFull { missing: 1.. }));
        assert_eq!(is_told, is_full, "{refused:?}");
    }
}
