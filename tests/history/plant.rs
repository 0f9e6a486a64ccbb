//! Faults of a store, planted into a history that has none.
//!
//! Each is placed where no order of the requests can explain it: what it tells of the past is told
//! after a request that had ended before.

use std::collections::BTreeMap;

use super::{Operation, Outcome, Step, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A read shows what had been overwritten before it was sent.
    StaleRead,
    /// The same, and its version is as old.
    DatedRead,
    /// All reads show what was there before an acknowledged set.
    LostWrite,
    /// A set is read, and later what was there before it.
    SeenThenGone,
    /// A read shows what nobody wrote.
    NeverWritten,
    /// Two sets, one sent after the other was acknowledged, have each other's version.
    SwappedVersions,
}

/// What is to be replaced by what.
pub(crate) type Patch = Vec<(usize, Operation)>;

/// Where a step is: its operation and its place there.
type Place = (usize, usize);

/// All places for a fault, spread over the history, at most `limit`.
pub(crate) fn places(history: &[Operation], fault: Fault, limit: usize) -> Vec<Patch> {
    let index = Index::new(history);
    let patches: Vec<Patch> = index
        .sets
        .keys()
        .filter_map(|value| index.plant(fault, *value))
        .collect();
    let step = patches.len().div_ceil(limit).max(1);
    patches.into_iter().step_by(step).collect()
}

/// Replaces, and gives back what puts it right again.
pub(crate) fn apply(history: &mut [Operation], patch: Patch) -> Patch {
    patch
        .into_iter()
        .map(|(at, operation)| (at, std::mem::replace(&mut history[at], operation)))
        .collect()
}

struct Index<'a> {
    history: &'a [Operation],
    /// Sets that were carried out, and are known to have been.
    sets: BTreeMap<Value, Place>,
    /// For each key its sets, in the order of their versions.
    by_key: BTreeMap<&'a str, Vec<Value>>,
    /// The gets that show a value, in the order of time.
    reads: BTreeMap<Value, Vec<Place>>,
}

impl<'a> Index<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let mut index = Self {
            history,
            sets: BTreeMap::new(),
            by_key: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        for (at, operation) in history.iter().enumerate() {
            for (i, step) in operation.steps.iter().enumerate() {
                if let Some(value) = step.sets().filter(|_| step.changed()) {
                    index.sets.insert(value, (at, i));
                    index.by_key.entry(&step.key).or_default().push(value);
                }
                if let Some(value) = step.shows() {
                    index.reads.entry(value).or_default().push((at, i));
                }
            }
        }
        for values in index.by_key.values_mut() {
            values.sort_by_key(|value| {
                let (at, i) = index.sets[value];
                history[at].steps[i].version
            });
        }
        for places in index.reads.values_mut() {
            places.sort_by_key(|(at, _)| history[*at].invoked);
        }
        index
    }

    fn step(&self, (at, i): Place) -> &'a Step {
        &self.history[at].steps[i]
    }

    /// The fault at the set of `value`, if there is a place for it.
    fn plant(&self, fault: Fault, value: Value) -> Option<Patch> {
        let (at, i) = self.sets[&value];
        let set = &self.history[at];
        let reads = self.reads.get(&value).map_or(&[][..], Vec::as_slice);
        let after = |time: u64| {
            reads
                .iter()
                .find(move |(r, _)| self.history[*r].invoked > time)
        };
        match fault {
            Fault::NeverWritten => {
                let read = reads.first()?;
                Some(vec![self.showing(*read, Value::MAX - 1, None)])
            }
            Fault::StaleRead if set.answered => {
                let (old, version) = self.older(value, set.invoked)?;
                Some(vec![self.showing(*after(set.returned)?, old, version)])
            }
            Fault::DatedRead if set.answered => {
                let (old, version) = self.older(value, set.invoked)?;
                let (at, mut read) = self.showing(*after(set.returned)?, old, version);
                read.version = version;
                (read.steps.len() == 1).then(|| vec![(at, read)])
            }
            Fault::LostWrite if set.answered => {
                let (old, version) = self.older(value, set.invoked)?;
                after(set.returned)?;
                Some(self.all_showing(reads, old, version))
            }
            Fault::SeenThenGone => {
                let first = &self.history[reads.first()?.0];
                let (old, version) = self.older(value, first.invoked.min(set.invoked))?;
                let gone = reads
                    .iter()
                    .position(|(r, _)| self.history[*r].invoked > first.returned)?;
                Some(self.all_showing(&reads[gone..], old, version))
            }
            Fault::SwappedVersions if set.answered && set.steps.len() == 1 => {
                let (old, version) = self.older(value, set.invoked)?;
                let (other, j) = self.sets[&old];
                if !self.history[other].answered || self.history[other].steps.len() != 1 {
                    return None;
                }
                let mut patch = BTreeMap::new();
                let own = self.step((at, i)).version;
                for ((at, i), version) in [((at, i), version), ((other, j), own)] {
                    let mut operation = self.history[at].clone();
                    operation.version = version;
                    operation.steps[i].version = version;
                    patch.insert(at, operation);
                }
                for (value, version) in [(value, version), (old, own)] {
                    for (at, i) in self.reads.get(&value).into_iter().flatten() {
                        let read = patch
                            .entry(*at)
                            .or_insert_with(|| self.history[*at].clone());
                        let step = &mut read.steps[*i];
                        step.version = step.version.and(version);
                    }
                }
                Some(patch.into_iter().collect())
            }
            _ => None,
        }
    }

    /// The newest set of the same key that had ended before `time` and came before `value`.
    fn older(&self, value: Value, time: u64) -> Option<(Value, Option<u64>)> {
        let values = &self.by_key[self.step(self.sets[&value]).key.as_str()];
        let before = values.iter().take_while(|other| **other != value);
        let old = before
            .filter(|other| self.history[self.sets[*other].0].returned < time)
            .last()?;
        Some((*old, self.step(self.sets[old]).version))
    }

    fn all_showing(&self, reads: &[Place], value: Value, version: Option<u64>) -> Patch {
        let mut patch: BTreeMap<usize, Operation> = BTreeMap::new();
        for place in reads {
            let (at, read) = self.showing(*place, value, version);
            patch.entry(at).or_insert(read);
        }
        patch.into_iter().collect()
    }

    /// A read that shows `value` instead.
    fn showing(&self, (at, i): Place, value: Value, version: Option<u64>) -> (usize, Operation) {
        let mut read = self.history[at].clone();
        let step = &mut read.steps[i];
        step.outcome = Outcome::Shown(Some(value));
        step.version = step.version.and(version);
        (at, read)
    }
}
