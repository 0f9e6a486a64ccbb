//! Whether a key's history is linearizable, told without looking at a version.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of
//! Lowe ("Testing for linearizability", 2017): steps are put one behind the other as long as the
//! register allows it, each before every step that was invoked after it had returned; what was tried
//! once, the set of steps and what they leave, is not tried again. Keys are independent, so each is
//! searched alone (Herlihy and Wing, 1990).
//!
//! A step without an answer takes effect between its invocation and the kill, or never. That it never
//! does is decided as late as it can be, which loses no order.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::register::{Held, after};
use super::{Call, Operation, Outcome, Step, Value};

/// A step and when it was under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed<'a> {
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
    pub(crate) step: &'a Step,
}

/// The history of each key. A get without an answer says nothing and is left out.
pub(crate) fn by_key(history: &[Operation]) -> BTreeMap<&str, Vec<Timed<'_>>> {
    let mut keys: BTreeMap<&str, Vec<Timed<'_>>> = BTreeMap::new();
    for operation in history {
        for step in &operation.steps {
            if step.outcome == Outcome::Unknown && step.call == Call::Get {
                continue;
            }
            keys.entry(&step.key).or_default().push(Timed {
                invoked: operation.invoked,
                returned: operation.returned,
                step,
            });
        }
    }
    keys
}

/// Searches for an order of a key's steps that begins with no value. Says how many were tried; if
/// there is none, how far the longest came.
pub(crate) fn search(steps: &[Timed<'_>], expiring: &BTreeSet<Value>) -> Result<usize, String> {
    let mut list = List::new(steps);
    let mut placed = vec![0u64; steps.len().div_ceil(64)];
    let mut held: Held = None;
    let mut seen: HashSet<(Vec<u64>, Held)> = HashSet::new();
    // The steps in the order tried, each with what was held before and whether it took effect.
    let mut order: Vec<(usize, Held, bool)> = Vec::new();
    let mut longest = Vec::new();
    let mut event = list.first();
    loop {
        let Some((index, returns)) = list.event(event) else {
            // All are placed.
            return Ok(seen.len());
        };
        let unknown = steps[index].step.outcome == Outcome::Unknown;
        let then = if returns {
            // It returned here and took no effect before: that is an order only if it never did.
            unknown.then_some(held)
        } else {
            after(held, steps[index].step, expiring)
        };
        if let Some(then) = then {
            flip(&mut placed, index);
            if seen.insert((placed.clone(), then)) {
                order.push((index, held, !returns));
                list.lift(index);
                held = then;
                event = list.first();
                continue;
            }
            flip(&mut placed, index);
        }
        if !returns {
            event = list.next(event);
            continue;
        }
        if order.len() > longest.len() {
            longest.clone_from(&order);
        }
        // Takes back the last step that could have been another one.
        loop {
            let Some((index, before, took_effect)) = order.pop() else {
                return Err(stuck(steps, &longest));
            };
            held = before;
            flip(&mut placed, index);
            list.put_back(index);
            if took_effect {
                event = list.next(list.invocation(index));
                break;
            }
        }
    }
}

fn flip(placed: &mut [u64], index: usize) {
    placed[index / 64] ^= 1 << (index % 64);
}

/// The end of the longest order and what could not follow.
fn stuck(steps: &[Timed<'_>], longest: &[(usize, Held, bool)]) -> String {
    let line = |index: usize| {
        let Timed {
            invoked,
            returned,
            step,
        } = steps[index];
        format!("  {invoked}..{returned} {step:?}")
    };
    let placed: BTreeSet<usize> = longest.iter().map(|(index, ..)| *index).collect();
    let mut left: Vec<usize> = (0..steps.len()).filter(|i| !placed.contains(i)).collect();
    left.sort_by_key(|index| steps[*index].invoked);
    let end = left
        .iter()
        .map(|index| steps[*index].returned)
        .min()
        .unwrap_or(u64::MAX);
    let mut text = format!(
        "no order of {} steps; the longest has {} and ends with",
        steps.len(),
        longest.len()
    );
    for (index, _, took_effect) in &longest[longest.len().saturating_sub(8)..] {
        let how = if *took_effect { "" } else { " (never)" };
        text.push_str(&format!("\n{}{how}", line(*index)));
    }
    text.push_str("\nnone of these can follow");
    for index in left.iter().filter(|index| steps[**index].invoked <= end) {
        text.push_str(&format!("\n{}", line(*index)));
    }
    text
}

/// Invocations and returns that are not placed yet, in the order of time: a list with links both
/// ways, so that a pair is taken out and put back at once.
struct List {
    /// For each event its step and whether it is the return; the last is the end.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// For each step the places of its invocation and its return.
    places: Vec<(usize, usize)>,
}

impl List {
    fn new(steps: &[Timed<'_>]) -> Self {
        let mut times: Vec<(u64, usize, bool)> = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            times.push((step.invoked, index, false));
            times.push((step.returned, index, true));
        }
        // Equal times are those of one kill, or of one request on several keys: invocations first.
        times.sort_by_key(|(time, index, returns)| (*time, *returns, *index));
        let mut places = vec![(0, 0); steps.len()];
        // Place 0 is the head, the last one the end: neither is an event.
        for (place, (_, index, returns)) in (1..).zip(&times) {
            if *returns {
                places[*index].1 = place;
            } else {
                places[*index].0 = place;
            }
        }
        let length = times.len() + 2;
        let mut events = vec![(0, false)];
        events.extend(times.iter().map(|(_, index, returns)| (*index, *returns)));
        Self {
            events,
            next: (1..=length).collect(),
            previous: (0..length).map(|place| place.saturating_sub(1)).collect(),
            places,
        }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn next(&self, place: usize) -> usize {
        self.next[place]
    }

    fn event(&self, place: usize) -> Option<(usize, bool)> {
        self.events.get(place).copied()
    }

    fn invocation(&self, index: usize) -> usize {
        self.places[index].0
    }

    fn lift(&mut self, index: usize) {
        let (invocation, returns) = self.places[index];
        for place in [invocation, returns] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Undoes the last [`List::lift`] that is not undone.
    fn put_back(&mut self, index: usize) {
        let (invocation, returns) = self.places[index];
        for place in [returns, invocation] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn has_order_by_trying_all(
        steps: &[Timed<'_>],
        held: Held,
        expiring: &BTreeSet<Value>,
    ) -> bool {
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
}
