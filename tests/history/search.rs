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
mod tests;
