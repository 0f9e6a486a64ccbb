//! Whether a history agrees with the versions that its answers name.
//!
//! - An answer's version is a place in one order that agrees with time: a request that is sent after
//!   an answer has come is at that place or a later one, and behind it if it changes anything.
//! - No two requests take the same version, and what one request changes is there whole or not at all.
//! - Every answer is what the key's register says at its place: a read shows the newest change of the
//!   key at or below its version, a condition is decided on what is there just before.
//! - If the log is given, it has each acknowledged change at its version, and no change that nobody
//!   sent.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Change, Log};
use super::register::{Held, after};
use super::{Call, Operation, Outcome, Step, Value, When, expiring};

/// What was checked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) changes: usize,
    pub(crate) reads: usize,
    /// Changes whose answer never came and that were carried out.
    pub(crate) unanswered_changes: usize,
    /// Answers that could be explained only by a request of unknown outcome.
    pub(crate) explained: usize,
}

/// Checks a history; an error says in words what contradicts what.
pub(crate) fn check(history: &[Operation], log: Option<&Log>) -> Result<Checked, String> {
    let order = Order::new(history, log)?;
    order.agrees_with_time()?;
    order.whole()?;
    order.replay()
}

struct Order<'a> {
    history: &'a [Operation],
    expiring: BTreeSet<Value>,
    /// For each key what it holds from which version on.
    keys: BTreeMap<&'a str, BTreeMap<u64, Held>>,
    /// The steps of unknown outcome, by key.
    unknown: BTreeMap<&'a str, Vec<(usize, &'a Step)>>,
    /// The log told of every change: nothing is left to be explained.
    complete: bool,
    /// The versions of sets: their own or, where no answer came, as a read showed it.
    versions: BTreeMap<Value, u64>,
}

impl<'a> Order<'a> {
    fn new(history: &'a [Operation], log: Option<&'a Log>) -> Result<Self, String> {
        let mut order = Self {
            history,
            expiring: expiring(history),
            keys: BTreeMap::new(),
            unknown: BTreeMap::new(),
            complete: log.is_some(),
            versions: BTreeMap::new(),
        };
        let mut owners: BTreeMap<u64, (usize, Change)> = BTreeMap::new();
        let mut setters: BTreeMap<Value, &str> = BTreeMap::new();
        let mut clears = Vec::new();
        for (at, step) in order.steps() {
            if let Some(value) = step.sets() {
                if setters.insert(value, &step.key).is_some() {
                    return Err(format!("value {value} is set twice"));
                }
                order.versions.extend(step.version.map(|v| (value, v)));
            }
            if step.outcome == Outcome::Unknown && step.call != Call::Get {
                order.unknown.entry(&step.key).or_default().push((at, step));
            }
            if !step.changed() {
                continue;
            }
            let Some(version) = step.version else {
                return Err(format!("a change without a version: {:?}", history[at]));
            };
            if step.call == Call::Clear {
                clears.push((at, version, step));
                continue;
            }
            order.hold(version, &step.key, step.sets());
            claim(history, &mut owners, version, at, change(step))?;
        }
        for (at, version, step) in clears {
            // The version of another change: the store was empty, and nothing was changed.
            if owners
                .get(&version)
                .is_none_or(|(_, c)| *c == Change::Clear)
            {
                order.hold(version, &step.key, None);
                owners.insert(version, (at, Change::Clear));
            }
        }
        // A read names the version of a change whose own answer never came.
        for (at, step) in order.steps() {
            let Some(value) = step.shows() else {
                continue;
            };
            if setters.get(&value) != Some(&step.key.as_str()) {
                return Err(format!(
                    "{} was never set to {value}: {:?}",
                    step.key, history[at]
                ));
            }
            if let Some(version) = step.version {
                let known = *order.versions.entry(value).or_insert(version);
                if known != version {
                    return Err(format!(
                        "{value} of {} was set at {known} and is shown at {version}: {:?}",
                        step.key, history[at]
                    ));
                }
                order.hold(version, &step.key, Some(value));
            }
        }
        if let Some(log) = log {
            order.agrees_with_log(log, &owners)?;
        }
        Ok(order)
    }

    fn steps(&self) -> impl Iterator<Item = (usize, &'a Step)> + use<'a> {
        let history = self.history;
        (0..)
            .zip(history)
            .flat_map(|(at, operation)| operation.steps.iter().map(move |step| (at, step)))
    }

    fn hold(&mut self, version: u64, key: &'a str, held: Held) {
        self.keys.entry(key).or_default().insert(version, held);
    }

    /// What `key` holds at `version`, and since when.
    fn at(&self, key: &str, version: u64) -> (u64, Held) {
        self.keys
            .get(key)
            .and_then(|changes| changes.range(..=version).next_back())
            .map_or((0, None), |(since, held)| (*since, *held))
    }

    fn agrees_with_log(
        &mut self,
        log: &'a Log,
        owners: &BTreeMap<u64, (usize, Change)>,
    ) -> Result<(), String> {
        for (version, (at, sent)) in owners {
            let logged = log.changes.get(version);
            // A store that was empty is cleared without a change.
            let same =
                *sent == Change::Clear || logged.is_some_and(|logged| same_kind(logged, sent));
            if !same {
                let operation = &self.history[*at];
                return Err(format!(
                    "the log has {logged:?} at {version}: {operation:?}"
                ));
            }
        }
        // How often each key was deleted by a request of unknown outcome.
        let mut deleted: BTreeMap<&str, usize> = BTreeMap::new();
        for (expected, (sequence, change)) in (1..).zip(&log.changes) {
            if expected != *sequence {
                return Err(format!(
                    "the log goes on with {sequence}, not with {expected}"
                ));
            }
            if owners
                .get(sequence)
                .is_some_and(|(_, sent)| same_kind(change, sent))
            {
                continue;
            }
            let sent = match change {
                Change::Other => true,
                Change::Put { key, .. } => self
                    .keys
                    .get(key.as_str())
                    .is_some_and(|changes| changes.contains_key(sequence)),
                Change::Delete { key } => {
                    self.hold(*sequence, key, None);
                    let deleted = deleted.entry(key).or_default();
                    *deleted += 1;
                    *deleted <= self.unknown_deletions(key)
                }
                Change::Expire { key } => {
                    let held = self.at(key, sequence - 1).1;
                    self.hold(*sequence, key, None);
                    held.is_some_and(|value| self.expiring.contains(&value))
                }
                Change::Clear => {
                    let keys: Vec<&str> = self.keys.keys().copied().collect();
                    for key in keys {
                        self.hold(*sequence, key, None);
                    }
                    self.unknown
                        .values()
                        .flatten()
                        .any(|(_, step)| step.call == Call::Clear)
                }
            };
            if !sent {
                return Err(format!("nobody sent {change:?}, in the log at {sequence}"));
            }
        }
        Ok(())
    }

    fn unknown_deletions(&self, key: &str) -> usize {
        let steps = self.unknown.get(key).map_or(&[][..], Vec::as_slice);
        let deletions = steps
            .iter()
            .filter(|(_, step)| matches!(step.call, Call::Delete { .. }));
        deletions.count()
    }

    /// Sends and answers in the order of time: no version below one that was known before.
    fn agrees_with_time(&self) -> Result<(), String> {
        // (time, operation, it returns)
        let mut times: Vec<(u64, usize, bool)> = Vec::new();
        let spans: Vec<Option<(u64, u64, bool)>> = self
            .history
            .iter()
            .map(|operation| self.span(operation))
            .collect();
        for (at, operation) in self.history.iter().enumerate() {
            times.push((operation.invoked, at, false));
            times.push((operation.returned, at, true));
        }
        times.sort_unstable();
        let mut floors: Vec<(u64, Option<usize>)> = vec![(0, None); self.history.len()];
        let mut floor = (0, None);
        for (_, at, returns) in times {
            let Some((first, last, changes)) = spans[at] else {
                continue;
            };
            if !returns {
                floors[at] = floor;
                continue;
            }
            let (least, whose) = floors[at];
            if first < least || (changes && first == least) {
                return Err(format!(
                    "version {first} after {least} was answered: {:?}\nwas sent after the answer to {:?}",
                    self.history[at],
                    whose.map(|whose| &self.history[whose])
                ));
            }
            if last > floor.0 {
                floor = (last, Some(at));
            }
        }
        Ok(())
    }

    /// The first and the last version of an operation, and whether it took them.
    fn span(&self, operation: &Operation) -> Option<(u64, u64, bool)> {
        let unanswered = || {
            operation
                .steps
                .iter()
                .filter(|step| step.outcome == Outcome::Unknown)
                .filter_map(|step| self.versions.get(&step.sets()?).copied())
        };
        let own = || operation.versions().chain(unanswered());
        match (own().min(), own().max()) {
            (Some(first), Some(last)) => {
                Some((first, last.max(operation.version.unwrap_or(0)), true))
            }
            _ => operation.version.map(|version| (version, version, false)),
        }
    }

    /// Of a request all changes or none, with consecutive versions, the last of which is the answer's.
    fn whole(&self) -> Result<(), String> {
        for operation in self.history {
            let mut versions: Vec<u64> = operation.versions().collect();
            versions.sort_unstable();
            let open = operation
                .steps
                .iter()
                .any(|step| step.outcome == Outcome::Unknown);
            let gap = !open && versions.windows(2).any(|pair| pair[1] != pair[0] + 1);
            let of_sets = |outcome: Outcome| {
                let mut sets = operation.steps.iter().filter(|step| step.sets().is_some());
                sets.any(|step| step.outcome == outcome)
            };
            if self.complete && of_sets(Outcome::Changed) && of_sets(Outcome::Unknown) {
                return Err(format!("the log has a part of one request: {operation:?}"));
            }
            let named = operation.version.or(versions.last().copied());
            if gap || (!versions.is_empty() && versions.last().copied() != named) {
                return Err(format!(
                    "versions {versions:?} of one request: {operation:?}"
                ));
            }
        }
        Ok(())
    }

    /// Every answer against the register of its key at its place.
    fn replay(&self) -> Result<Checked, String> {
        let mut checked = Checked::default();
        // Of each value with a TTL: when it was first known to be gone, by which operation.
        let mut gone: BTreeMap<Value, (u64, usize)> = BTreeMap::new();
        let mut there: BTreeMap<Value, (u64, usize)> = BTreeMap::new();
        for (at, step) in self.steps() {
            let operation = &self.history[at];
            if step.outcome == Outcome::Unknown {
                continue;
            }
            let place = match (step.changed(), step.version, operation.version) {
                (true, Some(version), _) => {
                    checked.unanswered_changes += usize::from(!operation.answered);
                    checked.changes += 1;
                    version.saturating_sub(1)
                }
                (false, _, Some(version)) => {
                    checked.reads += 1;
                    version
                }
                _ => return Err(format!("an answer without a version: {operation:?}")),
            };
            if step.call == Call::Clear {
                // Of an empty store it takes no version; either way nothing is there behind it.
                if self.at(&step.key, place + 1).1.is_some() {
                    return Err(format!("{} is there after {operation:?}", step.key));
                }
                continue;
            }
            let (since, held) = self.at(&step.key, place);
            let then = after(held, step, &self.expiring);
            // A read that says a version says that of the newest change.
            let names_another = !step.changed() && step.version.is_some_and(|v| v != since);
            if then.is_none() || names_another {
                if self.explained(step, at, held) {
                    checked.explained += 1;
                    continue;
                }
                return Err(format!(
                    "{} at {place} holds {held:?} since {since}: {operation:?}",
                    step.key
                ));
            }
            let Some(value) = held.filter(|value| self.expiring.contains(value)) else {
                continue;
            };
            if shows_absence(step, value) {
                let first = gone.entry(value).or_insert((operation.returned, at));
                *first = (*first).min((operation.returned, at));
            } else if shows_presence(step, value) {
                let last = there.entry(value).or_insert((operation.invoked, at));
                *last = (*last).max((operation.invoked, at));
            }
        }
        for (value, (seen, by)) in there {
            if let Some((expired, known_by)) = gone.get(&value).filter(|(time, _)| *time < seen) {
                return Err(format!(
                    "{value} was gone at {expired}: {:?}\nand is there again: {:?}",
                    self.history[*known_by], self.history[by]
                ));
            }
        }
        Ok(checked)
    }

    /// Whether a request of unknown outcome may be why the key is not as known.
    fn explained(&self, step: &Step, at: usize, held: Held) -> bool {
        if self.complete {
            return false;
        }
        let returned = self.history[at].returned;
        self.unknown.get(step.key.as_str()).is_some_and(|steps| {
            steps.iter().any(|(other, unknown)| {
                let sent = self.history[*other].invoked < returned;
                let unplaced = unknown
                    .sets()
                    .is_none_or(|value| !self.versions.contains_key(&value));
                // What it left, and what may have come of that.
                let left = unknown.sets().filter(|_| unplaced);
                let fits = (left != held) && after(left, step, &self.expiring).is_some();
                sent && unplaced && fits
            })
        })
    }
}

/// Enters a change under its version, which nobody else may have taken.
fn claim(
    history: &[Operation],
    owners: &mut BTreeMap<u64, (usize, Change)>,
    version: u64,
    at: usize,
    change: Change,
) -> Result<(), String> {
    match owners.insert(version, (at, change)) {
        None => Ok(()),
        Some((other, _)) => Err(format!(
            "two changes at {version}: {:?}\nand {:?}",
            history[other], history[at]
        )),
    }
}

/// Whether both are the same kind of change of the same key.
fn same_kind(one: &Change, other: &Change) -> bool {
    match (one, other) {
        (Change::Put { key: one, .. }, Change::Put { key: other, .. }) => one == other,
        _ => one == other,
    }
}

fn change(step: &Step) -> Change {
    let key = step.key.clone();
    match step.sets() {
        Some(_) => Change::Put { key, bytes: 0 },
        None => Change::Delete { key },
    }
}

/// Whether the step says that a key that was set to `value` is not there any more.
fn shows_absence(step: &Step, value: Value) -> bool {
    match (step.call, step.outcome) {
        (_, Outcome::Shown(None) | Outcome::Unchanged) => true,
        (
            Call::Set {
                when: When::Absent, ..
            },
            Outcome::Changed,
        ) => true,
        (
            Call::Set {
                when: When::Holds(asked),
                ..
            }
            | Call::Delete {
                when: When::Holds(asked),
            },
            Outcome::Refused,
        ) => asked == value,
        _ => false,
    }
}

/// Whether the step says that a key that was set to `value` is still there.
fn shows_presence(step: &Step, value: Value) -> bool {
    match (step.call, step.outcome) {
        (_, Outcome::Shown(shown)) => shown == Some(value),
        (
            Call::Set {
                when: When::Holds(_),
                ..
            }
            | Call::Delete { .. },
            Outcome::Changed,
        ) => true,
        (
            Call::Set {
                when: When::Absent, ..
            },
            Outcome::Refused,
        ) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
