//! Who takes the frame when a lone writer's handler may commit itself.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::lone::{LONE_BYTES_MAX, LONE_COMMIT_TIME_MAX};
use super::*;
use crate::state::Fingerprint;

type Receiver = oneshot::Receiver<Result<Reply, Error>>;

/// A frame whose committer sleeps lightly behind a quick commit of one write.
fn watched() -> OpenFrame {
    let frame = OpenFrame::new(0, 1 << 20);
    {
        let mut inner = frame.lock();
        inner.sleep = Some(Sleep::Light);
        inner.last_group = 1;
        inner.took = Duration::ZERO;
    }
    frame
}

/// A write by the only command since the last push; whether its caller is to commit it.
fn push(frame: &OpenFrame, sequence: u64, settled: bool, asked: Option<u64>) -> (bool, Receiver) {
    let (reply_to, reply) = oneshot::channel();
    let mutation = Mutation::Delete { key: "key" };
    let answer = Some((reply_to, Answer::Cleared));
    let is_lone = frame.push(&[mutation], sequence, 1, answer, settled, asked);
    (is_lone, reply)
}

fn ticket() -> Ticket {
    Ticket {
        fingerprint: Fingerprint::default(),
        time: 1,
        renew: false,
        reply: sync_channel(1).0,
    }
}

/// What the committer's thread finds to do at once.
fn next(frame: &OpenFrame) -> Work {
    frame.next(Patience::Quiet(Duration::ZERO))
}

#[test]
fn a_lone_writer_commits_itself_unless_something_speaks_against_it() {
    type Change = fn(&mut Inner);
    let against: [(&str, Change); 8] = [
        ("the committer is awake", |inner| inner.sleep = None),
        ("it must be woken to look", |inner| {
            inner.sleep = Some(Sleep::Deep);
        }),
        ("another handler commits", |inner| {
            inner.lone = Some(Lone {
                since: Instant::now(),
                is_known: false,
            });
        }),
        ("the store stops", |inner| inner.closed = true),
        ("somebody else waits", |inner| inner.frame.waiters = 1),
        ("there was a group before", |inner| inner.last_group = 2),
        ("there is much to write", |inner| {
            inner.frame.records = vec![0; LONE_BYTES_MAX];
        }),
        ("the disk is slow", |inner| {
            inner.took = LONE_COMMIT_TIME_MAX + Duration::from_nanos(1);
        }),
    ];
    for (why, change) in against {
        let frame = watched();
        change(&mut frame.lock());
        assert!(!push(&frame, 1, true, Some(0)).0, "{why}");
    }
    let company = watched();
    company.keep_company(false);
    assert!(
        !push(&company, 1, true, Some(0)).0,
        "a handler has answered others"
    );
    let cut = watched();
    assert!(cut.cut(ticket(), |_, _| true).is_ok());
    cut.lock().sleep = Some(Sleep::Light);
    assert!(!push(&cut, 1, true, Some(0)).0, "the segment ends");
    assert!(
        !push(&watched(), 1, false, Some(0)).0,
        "others wait for the owner"
    );
    assert!(!push(&watched(), 1, true, None).0, "it came by mailbox");
    assert!(
        !push(&watched(), 1, true, Some(u64::MAX)).0,
        "many ask for something"
    );
    assert!(push(&watched(), 1, true, Some(0)).0, "nothing");
}

#[test]
fn a_store_that_has_just_begun_does_not_know_its_disk() {
    let frame = OpenFrame::new(0, 1 << 20);
    frame.lock().sleep = Some(Sleep::Light);
    assert!(!push(&frame, 1, true, Some(0)).0);
}

#[test]
fn while_a_handler_has_the_log_the_frame_is_not_taken() {
    let frame = watched();
    let (is_lone, mut first) = push(&frame, 1, true, Some(0));
    assert!(is_lone);
    let taken = frame.take_lone().unwrap();
    assert_eq!((taken.count, taken.last_sequence), (1, 1));
    let (is_lone, mut second) = push(&frame, 2, true, Some(0));
    assert!(!is_lone);
    frame.close();

    // It has had it for long: the committer hears of that, and of nothing else.
    if let Some(lone) = &mut frame.lock().lone {
        lone.since = Instant::now() - LONE_PATIENCE;
    }
    assert!(matches!(next(&frame), Work::Stalled));
    assert!(matches!(first.try_recv(), Err(TryRecvError::Empty)));

    frame.written();
    frame.release(1, taken);
    frame.give_back();
    assert!(matches!(first.try_recv(), Ok(Ok(_))));
    assert!(matches!(second.try_recv(), Err(TryRecvError::Empty)));
    let Work::Commit(behind) = next(&frame) else {
        panic!("the second write waits");
    };
    assert_eq!((behind.count, behind.last_sequence), (1, 2));
    frame.release(2, behind);
    assert!(matches!(second.try_recv(), Ok(Ok(_))));
    assert!(matches!(next(&frame), Work::Stop));
}

#[test]
fn a_committer_that_knows_of_a_stall_is_woken_when_it_is_over() {
    let frame = Arc::new(watched());
    let (_, _reply) = push(&frame, 1, true, Some(0));
    let taken = frame.take_lone().unwrap();
    if let Some(lone) = &mut frame.lock().lone {
        lone.since = Instant::now() - LONE_PATIENCE;
    }
    assert!(matches!(next(&frame), Work::Stalled));
    let sleeper = Arc::clone(&frame);
    let thread = thread::spawn(move || matches!(next(&sleeper), Work::Idle));
    frame.release(1, taken);
    frame.give_back();
    assert!(thread.join().unwrap());
}

#[test]
fn what_is_the_committers_is_left_to_it() {
    let frame = watched();
    let (is_lone, _reply) = push(&frame, 1, true, Some(0));
    assert!(is_lone);
    assert!(frame.cut(ticket(), |_, _| true).is_ok());
    assert!(frame.take_lone().is_none());
    let Work::Commit(taken) = next(&frame) else {
        panic!("the frame is there");
    };
    assert!(taken.ticket.is_some());
    assert_eq!(taken.count, 1);
}

#[test]
fn a_failed_log_is_not_written_by_a_handler() {
    let frame = watched();
    let (is_lone, mut reply) = push(&frame, 1, true, Some(0));
    assert!(is_lone);
    frame.fail();
    assert!(frame.take_lone().is_none());
    assert!(matches!(reply.try_recv(), Ok(Err(Error::OutcomeUnknown))));
    assert!(matches!(next(&frame), Work::Fail));
}

#[test]
fn a_lone_writer_who_gets_company_leaves_the_frame_to_the_committer() {
    let joined = watched();
    assert!(push(&joined, 1, true, Some(0)).0);
    let (is_lone, _reply) = push(&joined, 2, true, Some(0));
    assert!(!is_lone && joined.take_lone().is_none());
    assert!(matches!(next(&joined), Work::Commit(frame) if frame.count == 2));

    let served = watched();
    assert!(push(&served, 1, true, Some(0)).0);
    served.keep_company(true);
    assert!(matches!(next(&served), Work::Commit(frame) if frame.count == 1));
}

#[test]
fn a_handler_that_answers_others_does_not_go_on_to_commit() {
    let frame = watched();
    assert!(push(&frame, 1, true, Some(0)).0);
    let taken = frame.take_lone().unwrap();
    // A read of what is being written.
    let (reply_to, mut reply) = oneshot::channel();
    frame.answer_after(1, 1, reply_to, Answer::Missing);
    frame.release(1, taken);
    frame.give_back();
    assert!(matches!(reply.try_recv(), Ok(Ok(_))));
    frame.lock().sleep = Some(Sleep::Light);
    assert!(!push(&frame, 2, true, Some(0)).0);
}

#[test]
fn behind_a_lone_write_whoever_comes_wakes_the_committer() {
    // It sleeps for longer than a frame's patience.
    for (settled, waits) in [(false, true), (true, true), (true, false)] {
        let frame = watched();
        assert!(push(&frame, 1, true, Some(0)).0);
        let taken = frame.take_lone().unwrap();
        frame.release(1, taken);
        frame.give_back();
        assert!(frame.lock().sleep.is_some(), "there is nothing to do");
        let answer = waits.then(|| (oneshot::channel().0, Answer::Cleared));
        let mutation = Mutation::Delete { key: "key" };
        assert!(!frame.push(&[mutation], 2, 1, answer, settled, None));
        assert!(frame.lock().sleep.is_none(), "{settled} {waits}");
        assert!(matches!(
            frame.next(Patience::Endless),
            Work::Commit(frame) if frame.last_sequence == 2
        ));
    }
}
