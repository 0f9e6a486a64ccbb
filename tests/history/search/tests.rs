use std::ops::Range;

use super::*;
use crate::common::draw::Draw;
use crate::history::When;
use crate::history::expiring as expiring_in;
use crate::history::small::{
    at, clear, delete, delete_when, get, set, set_that_expires, set_when, unanswered,
};

fn has_order(history: &[Operation]) -> bool {
    let keys = by_key(history);
    search(&keys["k"], &expiring_in(history)).is_ok()
}

/// A step with its time; the search sees no version.
fn done(time: Range<u64>, step: Step) -> Operation {
    at(time, 0, step)
}

fn refused(when: When) -> Step {
    set_when(99, when, Outcome::Refused)
}

#[test]
fn histories_with_an_order_are_accepted() {
    let good: [&[Operation]; 12] = [
        &[
            done(0..1, get(None)),
            done(2..3, set(1)),
            done(4..5, get(Some(1))),
        ],
        // While a set is under way a read may show either, and the next read the newer one.
        &[
            done(0..1, set(1)),
            done(2..9, set(2)),
            done(3..4, get(Some(1))),
            done(5..6, get(Some(2))),
        ],
        // Two sets at once may take effect either way round, seen from outside.
        &[
            done(0..3, set(1)),
            done(1..2, set(2)),
            done(4..5, get(Some(1))),
        ],
        &[
            done(0..3, set(1)),
            done(1..2, set(2)),
            done(4..5, get(Some(2))),
        ],
        // Without an answer: before the kill, or never.
        &[unanswered(0..5, set(1)), done(6..7, get(Some(1)))],
        &[unanswered(0..5, set(1)), done(6..7, get(None))],
        &[
            done(0..1, set(1)),
            unanswered(2..9, set(2)),
            done(3..4, get(Some(1))),
            done(5..6, get(Some(2))),
            unanswered(7..9, delete(true)),
            done(10..11, get(None)),
        ],
        &[
            done(0..1, set(1)),
            done(2..3, set_when(2, When::Holds(1), Outcome::Changed)),
            done(4..5, set_when(3, When::Holds(1), Outcome::Refused)),
            done(6..7, delete_when(When::Holds(2), Outcome::Changed)),
            done(8..9, delete(false)),
            done(10..11, set_when(4, When::Absent, Outcome::Changed)),
            done(12..13, refused(When::Absent)),
        ],
        &[
            done(0..1, clear()),
            done(2..3, set(1)),
            done(4..5, clear()),
            done(6..7, delete(false)),
        ],
        // With a TTL it is there until it is not.
        &[
            done(0..1, set_that_expires(1)),
            done(2..3, get(Some(1))),
            done(4..5, get(None)),
            done(6..7, delete(false)),
        ],
        &[
            done(0..1, set_that_expires(1)),
            done(2..3, refused(When::Holds(1))),
            done(4..5, set_when(2, When::Absent, Outcome::Changed)),
        ],
        &[],
    ];
    for (number, history) in good.iter().enumerate().filter(|(_, h)| !h.is_empty()) {
        assert!(has_order(history), "history {number}");
    }
}

#[test]
fn histories_without_an_order_are_refused() {
    let bad: [&[Operation]; 15] = [
        // A value that nobody wrote.
        &[done(0..1, set(1)), done(2..3, get(Some(7)))],
        // Stale.
        &[
            done(0..1, set(1)),
            done(2..3, set(2)),
            done(4..5, get(Some(1))),
        ],
        &[
            done(0..1, set(1)),
            done(2..3, delete(true)),
            done(4..5, get(Some(1))),
        ],
        // Acknowledged and lost.
        &[done(0..1, set(1)), done(2..3, get(None))],
        &[done(0..1, set(1)), done(2..3, delete(false))],
        // Seen and then gone, also if it was never acknowledged.
        &[
            unanswered(0..5, set(1)),
            done(6..7, get(Some(1))),
            done(8..9, get(None)),
        ],
        &[
            done(0..1, set(1)),
            done(2..9, set(2)),
            done(3..4, get(Some(2))),
            done(5..6, get(Some(1))),
        ],
        // Never before the kill, so never.
        &[
            done(0..1, set(1)),
            unanswered(2..5, set(2)),
            done(6..7, get(Some(1))),
            done(8..9, get(Some(2))),
        ],
        // Not sent yet.
        &[done(0..1, get(Some(1))), done(2..3, set(1))],
        // Two readers who disagree about the order of two sets.
        &[
            done(0..9, set(1)),
            done(0..9, set(2)),
            done(1..2, get(Some(1))),
            done(3..4, get(Some(2))),
            done(5..6, get(Some(1))),
        ],
        // Two conditional sets upon the same value.
        &[
            done(0..1, set(1)),
            done(2..5, set_when(2, When::Holds(1), Outcome::Changed)),
            done(3..4, set_when(3, When::Holds(1), Outcome::Changed)),
        ],
        &[
            done(0..3, set_when(1, When::Absent, Outcome::Changed)),
            done(1..2, set_when(2, When::Absent, Outcome::Changed)),
        ],
        // Refused although the condition held.
        &[done(0..1, set(1)), done(2..3, refused(When::Holds(1)))],
        &[
            done(0..1, set(1)),
            done(2..3, clear()),
            done(4..5, get(Some(1))),
        ],
        // Expired, and there again.
        &[
            done(0..1, set_that_expires(1)),
            done(2..3, get(None)),
            done(4..5, get(Some(1))),
        ],
    ];
    for (number, history) in bad.iter().enumerate() {
        assert!(!has_order(history), "history {number}");
    }
}

/// Tries every order, and for every request without an answer whether it took effect.
fn has_order_by_trying_all(steps: &[Timed<'_>], held: Held, expiring: &BTreeSet<Value>) -> bool {
    let Some(end) = steps.iter().map(|step| step.returned).min() else {
        return true;
    };
    (0..steps.len())
        .filter(|index| steps[*index].invoked <= end)
        .any(|index| {
            let mut rest = steps.to_vec();
            let Timed { step, .. } = rest.remove(index);
            let goes_on = |held| has_order_by_trying_all(&rest, held, expiring);
            after(held, step, expiring).is_some_and(goes_on)
                || (step.outcome == Outcome::Unknown && goes_on(held))
        })
}

#[test]
fn the_search_says_what_trying_all_orders_says() {
    const HISTORIES: usize = 20_000;
    let mut draw = Draw(3);
    let mut accepted = 0;
    for number in 0..HISTORIES {
        let mut history: Vec<Operation> = Vec::new();
        let length = 2 + draw.below(6);
        for value in 1..=length {
            let invoked = draw.below(12);
            let time = invoked..invoked + 1 + draw.below(6);
            let other = 1 + draw.below(length);
            let step = match draw.below(12) {
                0..3 => get(Some(other)),
                3 => get(None),
                4 | 5 => set(value),
                6 => set_that_expires(value),
                7 => set_when(value, When::Holds(other), Outcome::Changed),
                8 => set_when(value, When::Absent, Outcome::Changed),
                9 => delete(draw.below(2) == 0),
                10 => refused(When::Holds(other)),
                _ => clear(),
            };
            let lost = step.call != Call::Get && draw.below(4) == 0;
            history.push(if lost {
                unanswered(time, step)
            } else {
                done(time, step)
            });
        }
        let keys = by_key(&history);
        let expiring = expiring_in(&history);
        let expected = has_order_by_trying_all(&keys["k"], None, &expiring);
        let found = search(&keys["k"], &expiring);
        assert_eq!(found.is_ok(), expected, "{number}: {history:#?}\n{found:?}");
        accepted += usize::from(expected);
    }
    let refused = HISTORIES - accepted;
    println!("{HISTORIES} histories: {accepted} accepted, {refused} refused, as by trying all");
    assert!(accepted > HISTORIES / 10 && refused > HISTORIES / 10);
}

#[test]
fn the_search_stays_small_where_orders_are_many() {
    // 150 times eight sets at once, and a read of one of them: 8! orders each.
    let mut history = Vec::new();
    for round in 0..150 {
        let (start, value) = (round * 20, round * 8);
        history.extend((1..=8).map(|i| done(start + i..start + 10 + i, set(value + i))));
        history.push(done(
            start + 19..start + 20,
            get(Some(value + 1 + round % 8)),
        ));
    }
    let keys = by_key(&history);
    let tried = search(&keys["k"], &BTreeSet::new()).unwrap();
    println!("{} steps, {tried} prefixes tried", history.len());
    assert!(tried < 200_000);
    // The last read is of the round before: to refuse it, all have to be tried.
    let last = history.len() - 1;
    history[last].steps = vec![get(Some(1))];
    assert!(!has_order(&history));
}
