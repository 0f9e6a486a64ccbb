//! Histories of concurrent clients: what was asked, what was answered, and when.
//!
//! - Times are counts of one clock that all clients share: an answer's is below the time of every
//!   request that was sent after it.
//! - No two sets write the same value, so a value that is read names the set that wrote it.
//! - What no answer came for was carried out before the kill that ended it, or never: its `returned`
//!   is the time of that kill.

pub(crate) mod client;
pub(crate) mod dump;
pub(crate) mod log;
pub(crate) mod plant;
pub(crate) mod register;
mod request;
pub(crate) mod search;
pub(crate) mod small;
pub(crate) mod versions;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The number of the set that wrote a value.
pub(crate) type Value = u64;

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
    pub(crate) answered: bool,
    /// `X-KV-Version`, if it was answered.
    pub(crate) version: Option<u64>,
    /// One for each key, all at once.
    pub(crate) steps: Vec<Step>,
}

/// What a request comes to for one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) key: String,
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
    /// Of a change its sequence, of a read the version of what it shows; where it is known.
    pub(crate) version: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    Get,
    Set {
        value: Value,
        when: When,
        /// It has a TTL: from some time on it is not there any more.
        expires: bool,
    },
    Delete {
        when: When,
    },
    /// A deletion that does not say whether the key was there.
    Clear,
}

/// The condition of a set or a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum When {
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match` with the version of this value.
    Holds(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Of a get.
    Shown(Option<Value>),
    /// Of a set or a clear: done. Of a delete: the key was there.
    Changed,
    /// Of a delete: the key was not there.
    Unchanged,
    /// 412.
    Refused,
    /// There was no answer.
    Unknown,
}

impl Step {
    pub(crate) fn changed(&self) -> bool {
        self.outcome == Outcome::Changed
    }

    /// The value that this sets, if it is a set.
    pub(crate) fn sets(&self) -> Option<Value> {
        match self.call {
            Call::Set { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The value that this shows, if it is a get of one.
    pub(crate) fn shows(&self) -> Option<Value> {
        match self.outcome {
            Outcome::Shown(value) => value,
            _ => None,
        }
    }
}

impl Operation {
    /// The versions that its changes took, where they are known.
    pub(crate) fn versions(&self) -> impl Iterator<Item = u64> {
        self.steps
            .iter()
            .filter(|step| step.changed() && step.call != Call::Clear)
            .filter_map(|step| step.version)
    }
}

/// The values that have a TTL.
pub(crate) fn expiring(history: &[Operation]) -> BTreeSet<Value> {
    let steps = history.iter().flat_map(|operation| &operation.steps);
    steps
        .filter_map(|step| match step.call {
            Call::Set {
                value,
                expires: true,
                ..
            } => Some(value),
            _ => None,
        })
        .collect()
}
