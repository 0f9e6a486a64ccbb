//! What a command comes to, given the state and the time: an answer, or changes and an answer.
//!
//! Nothing is changed here, so a command is refused before anything has happened or carried out whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ekokv_wal::planted;

use super::command::{Answer, Command, Condition, Error, Found, Put, Tags, Ttl};
use crate::state::ttl::{SPAN_MS_MAX, format_rfc3339};
use crate::state::{EntryRef, Key, Lookup, Mutation, Shown, State};

/// A slice of a find ends after so long: others wait no longer than this.
const SLICE_TIME: Duration = Duration::from_micros(150);

/// What is to be done.
pub(super) enum Plan<'a> {
    /// Nothing: the answer may be shown once the gate is released.
    Show {
        /// The sequence that the answer depends on.
        gate: u64,
        answer: Answer,
    },
    /// One change. `Answer::Stored` still lacks its version.
    Change(Mutation<'a>, Answer),
    /// Several changes, not none, at once.
    Changes(Vec<Mutation<'a>>, Answer),
}

/// When a command is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// The time that readers see, in milliseconds since the Unix epoch.
    pub(super) shown: u64,
    /// The time that is logged, in milliseconds since the Unix epoch: behind the other if that may be
    /// taken back, else the same.
    pub(super) logged: u64,
    /// The sequence on which an answer depends if a deadline hides something from it that no expire
    /// has dropped yet: once it is released, the log knows a time behind that deadline. 0 if there is
    /// nothing that only a deadline hides, or if the time itself may be taken back.
    pub(super) hiding: u64,
}

/// Plans `command` on `state`.
pub(super) fn plan<'a>(state: &State, now: Now, command: &'a Command) -> Result<Plan<'a>, Error> {
    let Now {
        shown: now,
        logged,
        hiding,
    } = now;
    let planner = Planner {
        state,
        now,
        logged,
        hiding,
    };
    match command {
        Command::Get { key, unless } => Ok(planner.get(key, unless.as_ref())),
        Command::Set { put, condition } => planner.set(put, condition),
        Command::Delete { key, condition } => Ok(planner.delete(key, condition)),
        Command::BatchGet { keys } => Ok(planner.batch_get(keys)),
        Command::BatchSet { puts } => planner.batch_set(puts),
        Command::BatchDelete { keys } => Ok(planner.batch_delete(keys)),
        Command::Clear => Ok(planner.clear()),
        Command::Link {
            key,
            collection,
            record_id,
            metadata,
        } => {
            Ok(planner.link(key, |entry| Mutation::Link {
                key,
                collection,
                record_id,
                metadata: metadata.clone(),
                // Linking again is no new link.
                created_at: entry
                    .links
                    .get(collection, record_id)
                    .map_or(now, |l| l.created_at),
            }))
        }
        Command::Unlink {
            key,
            collection,
            record_id,
        } => Ok(planner.unlink(key, collection, record_id)),
        Command::Links { key } => Ok(planner.links(key)),
        Command::Find { query, cursor } => {
            let started = Instant::now();
            let (slice, gate) = query.walk(state, cursor, now, || started.elapsed() >= SLICE_TIME);
            Ok(Plan::Show {
                gate: gate.max(hiding),
                answer: Answer::Slice(slice),
            })
        }
    }
}

struct Planner<'s> {
    state: &'s State,
    now: u64,
    logged: u64,
    hiding: u64,
}

impl Planner<'_> {
    fn show<'a>(&self, key: &str, answer: Answer) -> Plan<'a> {
        Plan::Show {
            gate: self.gate(&self.state.get(key, self.now)),
            answer,
        }
    }

    /// Whether only a time that may be taken back hides the value of a key. Whoever deletes it was told
    /// that it is not there, and must not find it there when the time is taken back.
    fn leap_hides(&self, key: &str) -> bool {
        self.state.live(key, self.now).is_none() && self.state.live(key, self.logged).is_some()
    }

    /// The sequence on which an answer about a key depends.
    fn gate(&self, lookup: &Lookup<'_>) -> u64 {
        match lookup.slot {
            Shown::Found(_) => lookup.gate,
            Shown::Expired { .. } | Shown::Missing => lookup.gate.max(self.hiding),
        }
    }

    fn get<'a>(&self, key: &str, unless: Option<&Tags>) -> Plan<'a> {
        let lookup = self.state.get(key, self.now);
        let answer = match lookup.slot {
            Shown::Found(entry) if unless.is_some_and(|tags| tags.contain(entry.version)) => {
                Answer::NotModified {
                    version: entry.version,
                    deadline: entry.deadline,
                }
            }
            Shown::Found(entry) => Answer::Found(found(entry)),
            Shown::Expired { .. } => Answer::Expired,
            Shown::Missing => Answer::Missing,
        };
        Plan::Show {
            gate: self.gate(&lookup),
            answer,
        }
    }

    fn batch_get<'a>(&self, keys: &[Key]) -> Plan<'a> {
        let mut gate = 0;
        let found_many = keys
            .iter()
            .map(|key| {
                let lookup = self.state.get(key, self.now);
                gate = gate.max(self.gate(&lookup));
                match lookup.slot {
                    Shown::Found(entry) => Some(found(entry)),
                    Shown::Expired { .. } | Shown::Missing => None,
                }
            })
            .collect();
        Plan::Show {
            gate,
            answer: Answer::FoundMany(found_many),
        }
    }

    fn set<'a>(&self, put: &'a Put, condition: &Condition) -> Result<Plan<'a>, Error> {
        let deadline = self.deadline(put.ttl)?;
        if let Some(refused) = self.check(&put.key, condition) {
            return Ok(refused);
        }
        let mutation = put_mutation(put, deadline);
        let answer = Answer::Stored {
            version: 0,
            deadline,
        };
        Ok(match self.expire_first(&put.key) {
            Some(expire) => Plan::Changes(vec![expire, mutation], answer),
            None => Plan::Change(mutation, answer),
        })
    }

    fn batch_set<'a>(&self, puts: &'a [Put]) -> Result<Plan<'a>, Error> {
        // Of equal keys the last wins, and only it is a change.
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, put) in puts.iter().enumerate() {
            last.insert(&put.key, index);
        }
        let mut mutations: Vec<Mutation<'a>> = last
            .keys()
            .filter_map(|key| self.expire_first(key))
            .collect();
        for (index, put) in puts.iter().enumerate() {
            // Every deadline is checked, also of those that a later one replaces.
            let deadline = self.deadline(put.ttl)?;
            if last.get(&*put.key) == Some(&index) {
                mutations.push(put_mutation(put, deadline));
            }
        }
        Ok(if mutations.is_empty() {
            Plan::Show {
                gate: 0,
                answer: Answer::StoredMany,
            }
        } else {
            Plan::Changes(mutations, Answer::StoredMany)
        })
    }

    fn delete<'a>(&self, key: &'a str, condition: &Condition) -> Plan<'a> {
        if let Some(refused) = self.check(key, condition) {
            return refused;
        }
        match self.state.live(key, self.now) {
            Some(_) => Plan::Change(Mutation::Delete { key }, Answer::Deleted(true)),
            None if self.leap_hides(key) => {
                Plan::Change(Mutation::Expire { key }, Answer::Deleted(false))
            }
            None => self.show(key, Answer::Deleted(false)),
        }
    }

    fn batch_delete<'a>(&self, keys: &'a [Key]) -> Plan<'a> {
        let mut gate = 0;
        let mut seen = BTreeSet::new();
        let mut mutations = Vec::new();
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            let live = self.state.live(key, self.now).is_some();
            there.push(live);
            if live && seen.insert(&**key) {
                mutations.push(Mutation::Delete { key });
            } else if self.leap_hides(key) && seen.insert(&**key) {
                mutations.push(Mutation::Expire { key });
            } else if !live {
                gate = gate.max(self.gate(&self.state.get(key, self.now)));
            }
        }
        let answer = Answer::DeletedMany(there);
        if mutations.is_empty() {
            Plan::Show { gate, answer }
        } else {
            Plan::Changes(mutations, answer)
        }
    }

    fn clear<'a>(&self) -> Plan<'a> {
        if self.state.live_len() == 0 && self.state.remembered_len() == 0 {
            // What emptied it last may not be released yet.
            Plan::Show {
                gate: u64::MAX,
                answer: Answer::Cleared,
            }
        } else {
            Plan::Change(Mutation::Clear, Answer::Cleared)
        }
    }

    fn link<'a>(&self, key: &str, mutation: impl FnOnce(EntryRef<'_>) -> Mutation<'a>) -> Plan<'a> {
        match self.state.live(key, self.now) {
            Some(entry) => Plan::Change(mutation(entry), Answer::Linked),
            None => self.show(key, Answer::Missing),
        }
    }

    fn unlink<'a>(&self, key: &'a str, collection: &'a str, record_id: &'a str) -> Plan<'a> {
        match self.state.live(key, self.now) {
            Some(entry) if entry.links.get(collection, record_id).is_some() => Plan::Change(
                Mutation::Unlink {
                    key,
                    collection,
                    record_id,
                },
                Answer::Unlinked,
            ),
            Some(_) => self.show(key, Answer::NotLinked),
            None => self.show(key, Answer::Missing),
        }
    }

    fn links<'a>(&self, key: &str) -> Plan<'a> {
        let answer = match self.state.live(key, self.now) {
            Some(entry) => Answer::Links(entry.links.as_slice().to_vec()),
            None => Answer::Missing,
        };
        self.show(key, answer)
    }

    /// The refusal if a condition does not hold.
    fn check<'a>(&self, key: &str, condition: &Condition) -> Option<Plan<'a>> {
        if *condition == Condition::None {
            return None;
        }
        let version = self.state.live(key, self.now).map(|entry| entry.version);
        let holds = match condition {
            Condition::None => true,
            Condition::Matches(tags) => version.is_some_and(|version| {
                tags.contain(version)
                    || planted("condition-on-stale-state")
                        && tags.contain(version.saturating_sub(1))
            }),
            Condition::Absent => version.is_none(),
        };
        (!holds).then(|| self.show(key, Answer::ConditionFailed { version }))
    }

    /// An entry whose deadline has passed unnoticed takes its links with it: it must not hand them on
    /// to the value that takes its place.
    fn expire_first<'a>(&self, key: &'a str) -> Option<Mutation<'a>> {
        self.state
            .expired_with_links(key, self.now)
            .then_some(Mutation::Expire { key })
            .filter(|_| !planted("expired-links-kept"))
    }

    fn deadline(&self, ttl: Ttl) -> Result<Option<u64>, Error> {
        let farthest = self.now.saturating_add(SPAN_MS_MAX);
        match ttl {
            Ttl::None => Ok(None),
            Ttl::After(span) => {
                let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                Ok(Some(self.now.saturating_add(span).min(farthest)))
            }
            Ttl::At(at) if at <= self.now || at > farthest => Err(Error::TtlOutOfRange {
                at: format_rfc3339(at),
            }),
            Ttl::At(at) => Ok(Some(at)),
        }
    }
}

fn put_mutation(put: &Put, deadline: Option<u64>) -> Mutation<'_> {
    Mutation::Put {
        key: &put.key,
        value: (&put.value).into(),
        form: put.form,
        deadline,
    }
}

fn found(entry: EntryRef<'_>) -> Found {
    Found {
        value: entry.value.to_bytes(),
        form: entry.form,
        version: entry.version,
        deadline: entry.deadline,
    }
}
