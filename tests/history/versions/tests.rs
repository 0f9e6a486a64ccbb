use super::*;
use crate::history::small::{
    at, clear, delete, delete_when, get, of, set, set_that_expires, set_when, several, shown,
    unanswered,
};

/// A set of the key `name` that took `version`.
fn put(name: &str, value: Value, version: u64) -> Step {
    let mut step = of(name, set(value));
    step.version = Some(version);
    step
}

fn log(changes: &[Change]) -> Log {
    Log {
        changes: (1..).zip(changes.iter().cloned()).collect(),
    }
}

fn logged_put() -> Change {
    let key = "k".to_owned();
    Change::Put { key, bytes: 3 }
}

fn logged_delete() -> Change {
    let key = "k".to_owned();
    Change::Delete { key }
}

#[test]
fn histories_that_agree_with_their_versions_are_accepted() {
    let good: [&[Operation]; 8] = [
        &[
            at(0..1, 1, set(1)),
            shown(2..3, 1, 1, get(Some(1))),
            at(4..5, 2, delete(true)),
            at(6..7, 2, get(None)),
            at(8..9, 2, delete(false)),
        ],
        // A read as of a version before a set that is under way.
        &[
            at(0..1, 1, set(1)),
            at(2..9, 2, set(2)),
            shown(3..4, 1, 1, get(Some(1))),
            shown(5..6, 2, 2, get(Some(2))),
        ],
        &[
            at(0..1, 5, set(1)),
            at(2..3, 6, set_when(2, When::Holds(1), Outcome::Changed)),
            at(4..5, 6, set_when(3, When::Holds(1), Outcome::Refused)),
            at(4..5, 6, set_when(4, When::Absent, Outcome::Refused)),
            at(6..7, 7, delete_when(When::Holds(2), Outcome::Changed)),
            at(8..9, 8, set_when(5, When::Absent, Outcome::Changed)),
        ],
        // Both of a request or none, at one version.
        &[
            several(0..5, 2, vec![put("k", 1, 1), put("l", 2, 2)]),
            several(1..2, 0, vec![of("k", get(None)), of("l", get(None))]),
            several(3..4, 2, vec![of("k", get(Some(1))), of("l", get(Some(2)))]),
        ],
        // A set without an answer, known by a read.
        &[unanswered(0..5, set(1)), shown(6..7, 4, 4, get(Some(1)))],
        // A delete without an answer explains that the key is gone.
        &[
            at(0..1, 1, set(1)),
            unanswered(2..5, delete(true)),
            at(6..7, 2, get(None)),
        ],
        // The second clear finds nothing and takes no version.
        &[
            at(0..1, 1, set(1)),
            at(2..3, 2, clear()),
            at(4..5, 2, clear()),
            at(6..7, 2, get(None)),
        ],
        &[
            at(0..1, 1, set_that_expires(1)),
            shown(2..6, 1, 1, get(Some(1))),
            at(3..4, 1, get(None)),
            at(7..8, 2, set_when(2, When::Absent, Outcome::Changed)),
        ],
    ];
    for (number, history) in good.iter().enumerate() {
        let checked = check(history, None);
        assert!(checked.is_ok(), "history {number}: {checked:?}");
    }
}

#[test]
fn histories_that_contradict_their_versions_are_refused() {
    let first = || at(0..1, 1, set(1));
    let bad: [&[Operation]; 18] = [
        // Stale, whether the answer says so or not.
        &[
            first(),
            at(2..3, 2, set(2)),
            shown(4..5, 2, 1, get(Some(1))),
        ],
        &[
            first(),
            at(2..3, 2, set(2)),
            shown(4..5, 1, 1, get(Some(1))),
        ],
        &[
            first(),
            at(2..3, 2, delete(true)),
            shown(4..5, 2, 1, get(Some(1))),
        ],
        // Acknowledged and lost.
        &[first(), at(2..3, 1, get(None))],
        &[first(), at(2..3, 1, delete(false))],
        // Seen and then gone.
        &[
            unanswered(0..5, set(1)),
            shown(6..7, 4, 4, get(Some(1))),
            at(8..9, 4, get(None)),
        ],
        // Never written.
        &[first(), shown(2..3, 1, 1, get(Some(7)))],
        &[first(), several(2..3, 1, vec![of("l", get(Some(1)))])],
        // Another version than the set's own.
        &[first(), shown(2..3, 3, 3, get(Some(1)))],
        // Versions that run back.
        &[at(0..1, 2, set(1)), at(2..3, 1, set(2))],
        &[
            first(),
            at(2..3, 3, get(Some(1))),
            at(4..5, 2, get(Some(1))),
        ],
        &[first(), at(2..3, 3, get(Some(1))), at(4..5, 3, set(2))],
        // Two changes at one version; versions of one request with a gap.
        &[at(0..5, 1, set(1)), at(0..5, 1, set(2))],
        &[several(0..1, 3, vec![put("k", 1, 1), put("l", 2, 3)])],
        // A request seen in part, at one version.
        &[
            several(0..5, 2, vec![put("k", 1, 1), put("l", 2, 2)]),
            several(1..2, 2, vec![of("k", get(Some(1))), of("l", get(None))]),
        ],
        // A condition that did not hold, and one that did.
        &[
            first(),
            at(2..3, 2, set_when(2, When::Absent, Outcome::Changed)),
        ],
        &[
            first(),
            at(2..3, 1, set_when(2, When::Holds(1), Outcome::Refused)),
        ],
        // Expired, and there again.
        &[
            at(0..1, 1, set_that_expires(1)),
            at(2..3, 1, get(None)),
            shown(4..5, 1, 1, get(Some(1))),
        ],
    ];
    for (number, history) in bad.iter().enumerate() {
        let checked = check(history, None);
        assert!(checked.is_err(), "history {number}: {checked:?}");
    }
}

#[test]
fn the_log_has_what_was_acknowledged_and_nothing_that_nobody_sent() {
    let history = [
        at(0..1, 1, set(1)),
        at(2..3, 2, delete(true)),
        unanswered(2..9, delete(true)),
    ];
    let whole = [logged_put(), logged_delete()];
    assert!(check(&history[..2], Some(&log(&whole))).is_ok());
    // The last one is the unanswered deletion's.
    let set_again = at(4..5, 3, set(2));
    let again = [history.as_slice(), &[set_again]].concat();
    let four = [logged_put(), logged_delete(), logged_put(), logged_delete()];
    assert!(check(&again, Some(&log(&four))).is_ok());

    assert!(check(&history, Some(&log(&whole[..1]))).is_err());
    assert!(check(&history, Some(&log(&[logged_put(), logged_put()]))).is_err());
    let foreign = [logged_put(), logged_delete(), logged_put()];
    assert!(check(&history, Some(&log(&foreign))).is_err());
    let twice = [four.as_slice(), &[logged_delete()]].concat();
    assert!(check(&again, Some(&log(&twice))).is_err());
    let mut gap = log(&four);
    gap.changes.remove(&2);
    assert!(check(&again, Some(&gap)).is_err());
}

#[test]
fn a_request_is_in_the_log_whole_or_not_at_all() {
    let mut sets: Vec<Step> = ["k", "l"]
        .iter()
        .zip(1..)
        .map(|(k, v)| of(k, set(v)))
        .collect();
    for step in &mut sets {
        step.outcome = Outcome::Unknown;
    }
    let request = Operation {
        answered: false,
        version: None,
        ..several(0..5, 0, sets)
    };
    for (changes, whole) in [
        (vec![], true),
        (vec![logged_put()], false),
        (vec![logged_put(), of_l(logged_put())], true),
    ] {
        let log = log(&changes.iter().map(by_client_0).collect::<Vec<_>>());
        let mut history = vec![request.clone()];
        log.resolve(&mut history, 0);
        assert_eq!(check(&history, Some(&log)).is_ok(), whole, "{changes:?}");
    }
}

fn of_l(change: Change) -> Change {
    match change {
        Change::Put { bytes, .. } => Change::Put {
            key: "l".to_owned(),
            bytes,
        },
        other => other,
    }
}

fn by_client_0(change: &Change) -> Change {
    match change {
        Change::Put { key, .. } => Change::Put {
            key: key.clone(),
            bytes: 32,
        },
        other => other.clone(),
    }
}
