//! Histories written by hand, of one key `k` or of several.

use std::ops::Range;

use super::{Call, Operation, Outcome, Step, Value, When};

/// A set of `value` that was carried out, whatever its condition.
pub(crate) fn set(value: Value) -> Step {
    set_when(value, When::Always, Outcome::Changed)
}

pub(crate) fn set_when(value: Value, when: When, outcome: Outcome) -> Step {
    let call = Call::Set {
        value,
        when,
        expires: false,
    };
    step(call, outcome)
}

pub(crate) fn set_that_expires(value: Value) -> Step {
    let call = Call::Set {
        value,
        when: When::Always,
        expires: true,
    };
    step(call, Outcome::Changed)
}

pub(crate) fn get(value: Option<Value>) -> Step {
    step(Call::Get, Outcome::Shown(value))
}

/// A delete that found the key, or not.
pub(crate) fn delete(there: bool) -> Step {
    let outcome = if there {
        Outcome::Changed
    } else {
        Outcome::Unchanged
    };
    delete_when(When::Always, outcome)
}

pub(crate) fn delete_when(when: When, outcome: Outcome) -> Step {
    step(Call::Delete { when }, outcome)
}

pub(crate) fn clear() -> Step {
    step(Call::Clear, Outcome::Changed)
}

fn step(call: Call, outcome: Outcome) -> Step {
    Step {
        key: "k".to_owned(),
        call,
        outcome,
        version: None,
    }
}

/// The same step of another key.
pub(crate) fn of(key: &str, mut step: Step) -> Step {
    step.key = key.to_owned();
    step
}

/// A request and its answer at `version`; a change takes it.
pub(crate) fn at(time: Range<u64>, version: u64, mut step: Step) -> Operation {
    if step.changed() {
        step.version = Some(version);
    }
    several(time, version, vec![step])
}

/// The answer to a get that says the version of what it shows.
pub(crate) fn shown(time: Range<u64>, version: u64, of: u64, mut step: Step) -> Operation {
    step.version = Some(of);
    several(time, version, vec![step])
}

/// A request on several keys; the versions of the steps are their own.
pub(crate) fn several(time: Range<u64>, version: u64, steps: Vec<Step>) -> Operation {
    Operation {
        client: 0,
        invoked: time.start,
        returned: time.end,
        answered: true,
        version: Some(version),
        steps,
    }
}

/// A request that a kill at the end of `time` left without an answer.
pub(crate) fn unanswered(time: Range<u64>, mut step: Step) -> Operation {
    step.outcome = Outcome::Unknown;
    Operation {
        answered: false,
        version: None,
        ..several(time, 0, vec![step])
    }
}
