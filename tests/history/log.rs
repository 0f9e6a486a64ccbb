//! What `ekokv wal` says of the log: the order of all changes, and with it what became of the
//! requests that no answer came for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::client::client_of;
use super::{Call, Operation, Outcome};

/// A change as the log names it. Values are not printed, but their length tells whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Put {
        key: String,
        bytes: usize,
    },
    Delete {
        key: String,
    },
    Clear,
    Expire {
        key: String,
    },
    /// Of another kind: no key's.
    Other,
}

/// Every change by its sequence.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Log {
    pub(crate) changes: BTreeMap<u64, Change>,
}

impl Log {
    /// Reads the log in `dir` once more. Says the sequence of the first change that was not there
    /// before; what was there before must be there as it was, unless a snapshot has taken its place.
    pub(crate) fn read(&mut self, dir: &Path) -> u64 {
        let output = Command::new(env!("CARGO_BIN_EXE_ekokv"))
            .arg("wal")
            .arg(dir)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let found = parse(&String::from_utf8(output.stdout).unwrap());
        let fresh = self.changes.keys().last().map_or(0, |last| last + 1);
        let first = found.keys().next().copied().unwrap_or(fresh);
        assert!(
            first <= fresh.max(1),
            "the log begins behind what was read before"
        );
        let before: BTreeMap<_, _> = found.range(..fresh).collect();
        assert!(
            before.into_iter().eq(self.changes.range(first..)),
            "the log has changed what it said"
        );
        self.changes.extend(found);
        fresh
    }

    /// Finds out what became of the requests of `operations` that no answer came for, all of one
    /// life of the process, whose changes are those from `fresh` on. What the log cannot tell stays
    /// unknown.
    pub(crate) fn resolve(&self, operations: &mut Vec<Operation>, fresh: u64) {
        let mut claimed = BTreeSet::new();
        for operation in operations.iter() {
            claimed.extend(operation.versions());
            // An empty store is cleared without a change; then the version is that of another one.
            let clear = |version: &u64| {
                is_clear(operation) && self.changes.get(version) == Some(&Change::Clear)
            };
            claimed.extend(operation.version.filter(clear));
        }
        let unclaimed: Vec<(u64, &Change)> = self
            .changes
            .range(fresh..)
            .filter(|(sequence, _)| !claimed.contains(sequence))
            .map(|(sequence, change)| (*sequence, change))
            .collect();
        let unanswered = || {
            operations
                .iter()
                .enumerate()
                .filter(|(_, operation)| !operation.answered)
                .flat_map(|(at, operation)| (0..operation.steps.len()).map(move |step| (at, step)))
        };
        // A client has one request at a time, so its name and the key are enough.
        let mut settled: Vec<((usize, usize), Option<u64>)> = Vec::new();
        // Nothing tells two deletions of one key apart.
        let mut deletions: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
        let mut clears: BTreeSet<usize> = BTreeSet::new();
        for (at, index) in unanswered() {
            let step = &operations[at].steps[index];
            match step.call {
                Call::Get => {}
                Call::Set { .. } => {
                    let client = operations[at].client;
                    let found = unclaimed.iter().find(|(_, change)| {
                        matches!(change, Change::Put { key, bytes }
                            if *key == step.key && client_of(*bytes) == client)
                    });
                    settled.push(((at, index), found.map(|(sequence, _)| *sequence)));
                }
                Call::Delete { .. } => deletions.entry(&step.key).or_default().push((at, index)),
                Call::Clear => {
                    clears.insert(at);
                }
            }
        }
        for (key, candidates) in deletions {
            let found: Vec<u64> = unclaimed
                .iter()
                .filter(|(_, change)| matches!(change, Change::Delete { key: k } if k == key))
                .map(|(sequence, _)| *sequence)
                .collect();
            match (candidates.as_slice(), found.first()) {
                (_, None) => settled.extend(candidates.into_iter().map(|place| (place, None))),
                ([only], Some(sequence)) => settled.push((*only, Some(*sequence))),
                _ => {}
            }
        }
        let cleared: Vec<u64> = unclaimed
            .iter()
            .filter(|(_, change)| **change == Change::Clear)
            .map(|(sequence, _)| *sequence)
            .collect();
        for (rank, at) in clears.iter().enumerate() {
            let sequence = match cleared.len() {
                0 => None,
                length if length == clears.len() => Some(cleared[rank]),
                _ => continue,
            };
            settled.extend((0..operations[*at].steps.len()).map(|index| ((*at, index), sequence)));
        }
        // A set of several keys is there whole; if not, what is missing stays, for the check to find.
        let begun: BTreeSet<usize> = settled
            .iter()
            .filter(|((at, index), sequence)| {
                sequence.is_some() && operations[*at].steps[*index].sets().is_some()
            })
            .map(|((at, _), _)| *at)
            .collect();
        let mut never: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (place, sequence) in settled {
            let step = &mut operations[place.0].steps[place.1];
            match sequence {
                Some(sequence) => {
                    step.outcome = Outcome::Changed;
                    step.version = Some(sequence);
                }
                None if begun.contains(&place.0) => {}
                None => {
                    never.insert(place);
                }
            }
        }
        for (at, operation) in operations.iter_mut().enumerate() {
            let mut index = 0;
            operation.steps.retain(|_| {
                index += 1;
                !never.contains(&(at, index - 1))
            });
        }
        operations.retain(|operation| !operation.steps.is_empty());
    }
}

fn is_clear(operation: &Operation) -> bool {
    operation.steps.iter().any(|step| step.call == Call::Clear)
}

fn parse(text: &str) -> BTreeMap<u64, Change> {
    let mut changes = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("  ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let key = || serde_json::from_str::<String>(words[2]).unwrap();
        let change = match words[1] {
            "put" => Change::Put {
                key: key(),
                bytes: words[3].parse().unwrap(),
            },
            "delete" => Change::Delete { key: key() },
            "expire" => Change::Expire { key: key() },
            "clear" => Change::Clear,
            _ => Change::Other,
        };
        let sequence = words[0].parse().unwrap();
        // What a start wrote again is the same again.
        let known = changes.insert(sequence, change.clone());
        assert!(known.is_none_or(|known| known == change), "{line}");
    }
    changes
}
