//! What a key is: a register that holds a value or none.

use std::collections::BTreeSet;

use super::{Call, Outcome, Step, Value, When};

/// What a key holds.
pub(crate) type Held = Option<Value>;

/// What the key holds after `step` took effect on `held` with the outcome it says, or `None` if it
/// could not have had that outcome. A step whose outcome is unknown takes effect if it can.
///
/// A value with a TTL is there until a step shows that it is not.
pub(crate) fn after(held: Held, step: &Step, expiring: &BTreeSet<Value>) -> Option<Held> {
    let may_be_absent = held.is_none_or(|value| expiring.contains(&value));
    let fulfilled = |when| match when {
        When::Always => true,
        When::Absent => may_be_absent,
        When::Holds(value) => held == Some(value),
    };
    let allowed = |allowed: bool, then: Held| allowed.then_some(then);
    match (step.call, step.outcome) {
        (Call::Get, Outcome::Shown(None)) => allowed(may_be_absent, None),
        (Call::Get, Outcome::Shown(value)) => allowed(held == value, held),
        (Call::Set { value, when, .. }, Outcome::Changed | Outcome::Unknown) => {
            allowed(fulfilled(when), Some(value))
        }
        (Call::Delete { when }, Outcome::Changed | Outcome::Unknown) => {
            allowed(held.is_some() && fulfilled(when), None)
        }
        (
            Call::Delete {
                when: When::Always | When::Absent,
            },
            Outcome::Unchanged,
        ) => allowed(may_be_absent, None),
        (Call::Set { when, .. } | Call::Delete { when }, Outcome::Refused) => match when {
            When::Always => None,
            When::Absent => allowed(held.is_some(), held),
            When::Holds(value) if held == Some(value) => allowed(may_be_absent, None),
            When::Holds(_) => Some(held),
        },
        (Call::Clear, Outcome::Changed | Outcome::Unknown) => Some(None),
        _ => None,
    }
}
