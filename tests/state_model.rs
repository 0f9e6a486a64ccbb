//! The state against a plain model: random changes, clock steps, releases and replays, and after
//! each of them the same answers, gates, counts and due keys, at every time that could matter.

use std::collections::BTreeMap;

use bytes::Bytes;
use ekokv::state::{
    ApiKey, Changes, Due, Entry, EntryRef, Form, KeyDigest, Keyring, Link, Links, Lookup, Mutation,
    Role, Shown, State,
};
use proptest::prelude::*;

const KEYS: [&str; 5] = [
    "a",
    "aa",
    "b/c",
    "ä",
    "a rather long key, longer than the others",
];
const IDS: [&str; 3] = ["root", "x", "y"];
const DOCUMENTS: [(&str, &str); 3] = [("users", "1"), ("users", "2"), ("a", "ä/1")];

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: &'static str,
        value: Vec<u8>,
        form: Form,
        ttl: Option<u64>,
    },
    Delete(&'static str),
    /// Links to one of three documents, with as many bytes of metadata.
    Link(&'static str, usize, usize),
    Unlink(&'static str, usize),
    Clear,
    Expire(&'static str),
    Forget(&'static str),
    HashingKey(u8),
    ApiKey {
        id: &'static str,
        role: Role,
        digest: u8,
    },
    ApiKeyRemoved(&'static str),
    /// Applies what is due, at most so much.
    Sweep(usize),
    /// Sets the clock, forwards or backwards.
    Clock(u64),
    /// Releases all but the last so many sequences.
    Release(u64),
    /// Goes on with a state built from the encoded mutations.
    Replay,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::sample::select(&KEYS[..]);
    let id = || prop::sample::select(&IDS[..]);
    let form = prop_oneof![Just(Form::Bare), Just(Form::Envelope)];
    let ttl = prop_oneof![
        6 => Just(None),
        8 => (0..40_u64).prop_map(Some),
        1 => Just(Some(u64::MAX)),
    ];
    let role = prop_oneof![Just(Role::Admin), Just(Role::User)];
    prop_oneof![
        20 => (key(), prop::collection::vec(any::<u8>(), 1..20), form, ttl)
            .prop_map(|(key, value, form, ttl)| Step::Put { key, value, form, ttl }),
        8 => key().prop_map(Step::Delete),
        8 => (key(), 0..3_usize, 0..9_usize).prop_map(|(key, at, len)| Step::Link(key, at, len)),
        4 => (key(), 0..3_usize).prop_map(|(key, at)| Step::Unlink(key, at)),
        1 => Just(Step::Clear),
        4 => key().prop_map(Step::Expire),
        4 => key().prop_map(Step::Forget),
        1 => any::<u8>().prop_map(Step::HashingKey),
        2 => (id(), role, 0..4_u8).prop_map(|(id, role, digest)| Step::ApiKey { id, role, digest }),
        1 => id().prop_map(Step::ApiKeyRemoved),
        8 => (0..4_usize).prop_map(Step::Sweep),
        8 => (0..120_u64).prop_map(Step::Clock),
        6 => (0..6_u64).prop_map(Step::Release),
        2 => Just(Step::Replay),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Value(Entry),
    Expired { deadline: u64, version: u64 },
    Gone { version: u64 },
}

/// What the state should be, as simply as it can be said: everything is found by looking at all.
struct Model {
    retention: u64,
    cells: BTreeMap<String, Cell>,
    cleared_at: u64,
    keyring: Keyring,
}

impl Model {
    fn apply(&mut self, sequence: u64, mutation: &Mutation<'_>) -> bool {
        let before = self.keyring.clone();
        match mutation.clone() {
            Mutation::Put {
                key,
                value,
                form,
                deadline,
            } => {
                let links = match self.cells.get(key) {
                    Some(Cell::Value(entry)) => entry.links.clone(),
                    _ => Links::default(),
                };
                let entry = Entry {
                    value: value.to_bytes(),
                    form,
                    version: sequence,
                    deadline,
                    links,
                };
                self.cells.insert(key.to_owned(), Cell::Value(entry));
            }
            Mutation::Delete { key } => self.change(key, |cell| match cell {
                Cell::Gone { .. } => None,
                _ => Some(Cell::Gone { version: sequence }),
            }),
            Mutation::Clear => {
                self.cells.clear();
                self.cleared_at = sequence;
            }
            Mutation::Link {
                key,
                collection,
                record_id,
                metadata,
                created_at,
            } => {
                let link = Link {
                    collection: collection.into(),
                    record_id: record_id.into(),
                    metadata,
                    created_at,
                };
                self.relink(key, sequence, collection, record_id, Some(link));
            }
            Mutation::Unlink {
                key,
                collection,
                record_id,
            } => self.relink(key, sequence, collection, record_id, None),
            Mutation::Expire { key } => self.change(key, |cell| match cell {
                Cell::Value(entry) => entry.deadline.map(|deadline| Cell::Expired {
                    deadline,
                    version: sequence,
                }),
                _ => None,
            }),
            Mutation::Forget { key } => self.change(key, |cell| match cell {
                Cell::Expired { .. } => Some(Cell::Gone { version: sequence }),
                _ => None,
            }),
            Mutation::HashingKey { hashing_key } => self.keyring.hashing_key = hashing_key,
            Mutation::ApiKey { id, role, digest } => {
                let key = ApiKey {
                    id: id.into(),
                    role,
                    digest,
                };
                self.keyring.api_keys.insert(id.into(), key);
            }
            Mutation::ApiKeyRemoved { id } => {
                self.keyring.api_keys.remove(id);
            }
        }
        before != self.keyring
    }

    fn change(&mut self, key: &str, to: impl FnOnce(&Cell) -> Option<Cell>) {
        if let Some(cell) = self.cells.get_mut(key)
            && let Some(next) = to(cell)
        {
            *cell = next;
        }
    }

    /// Puts `link` in the place of the one to that document.
    fn relink(
        &mut self,
        key: &str,
        version: u64,
        collection: &str,
        record_id: &str,
        link: Option<Link>,
    ) {
        self.change(key, |cell| match cell {
            Cell::Value(entry) => {
                let others = entry.links.as_slice().iter().filter(|other| {
                    (&*other.collection, &*other.record_id) != (collection, record_id)
                });
                let mut links: Vec<Link> = others.cloned().chain(link).collect();
                links.sort_by_key(|link| (link.collection.clone(), link.record_id.clone()));
                let links = links.into_iter().collect();
                Some(Cell::Value(Entry {
                    links,
                    version,
                    ..entry.clone()
                }))
            }
            _ => None,
        });
    }

    fn released(&mut self, sequence: u64) {
        self.cells
            .retain(|_, cell| !matches!(cell, Cell::Gone { version } if *version <= sequence));
    }

    fn lookup(&self, key: &str, now: u64) -> Lookup<'_> {
        let expired = |deadline: u64| {
            let forgotten = deadline.saturating_add(self.retention) <= now;
            if forgotten {
                Shown::Missing
            } else {
                Shown::Expired { deadline }
            }
        };
        let (version, slot) = match self.cells.get(key) {
            None => (0, Shown::Missing),
            Some(Cell::Gone { version }) => (*version, Shown::Missing),
            Some(Cell::Expired { deadline, version }) => (*version, expired(*deadline)),
            Some(Cell::Value(entry)) => match entry.deadline {
                Some(deadline) if now >= deadline => (entry.version, expired(deadline)),
                _ => (entry.version, Shown::Found(entry.by_ref())),
            },
        };
        let missing = matches!(slot, Shown::Missing);
        Lookup {
            gate: if missing {
                version.max(self.cleared_at)
            } else {
                version
            },
            slot,
        }
    }

    /// Everything that is to happen some day, in order.
    fn agenda(&self) -> Vec<(u64, Due)> {
        let mut agenda: Vec<_> = self
            .cells
            .iter()
            .filter_map(|(key, cell)| match cell {
                Cell::Value(Entry {
                    deadline, version, ..
                }) => deadline.map(|at| (at, *version, Due::Expire(key.as_str().into()))),
                Cell::Expired { deadline, version } => {
                    let at = deadline.saturating_add(self.retention);
                    Some((at, *version, Due::Forget(key.as_str().into())))
                }
                Cell::Gone { .. } => None,
            })
            .collect();
        agenda.sort_by_key(|(at, version, _)| (*at, *version));
        agenda.into_iter().map(|(at, _, due)| (at, due)).collect()
    }

    fn values(&self) -> Vec<(&str, EntryRef<'_>)> {
        let values = self.cells.iter().filter_map(|(key, cell)| match cell {
            Cell::Value(entry) => Some((key.as_str(), entry.by_ref())),
            _ => None,
        });
        values.collect()
    }

    fn expired_len(&self) -> usize {
        self.cells
            .values()
            .filter(|cell| matches!(cell, Cell::Expired { .. }))
            .count()
    }

    /// A state with the same values and remembered keys that has never held anything else.
    fn fresh_state(&self) -> State {
        let mut state = State::new(self.retention);
        let mut sequence = 0;
        let mut apply = |mutation: &Mutation<'_>| {
            sequence += 1;
            assert!(state.apply(sequence, mutation).freed.is_none());
        };
        for (key, cell) in &self.cells {
            match cell {
                Cell::Value(Entry {
                    value,
                    form,
                    deadline,
                    links,
                    ..
                }) => {
                    let (value, form, deadline) = (value.into(), *form, *deadline);
                    apply(&Mutation::Put {
                        key,
                        value,
                        form,
                        deadline,
                    });
                    for link in links.as_slice() {
                        apply(&Mutation::Link {
                            key,
                            collection: &link.collection,
                            record_id: &link.record_id,
                            metadata: link.metadata.clone(),
                            created_at: link.created_at,
                        });
                    }
                }
                Cell::Expired { deadline, .. } => {
                    let (value, deadline) = (b"0".into(), Some(*deadline));
                    apply(&Mutation::Put {
                        key,
                        value,
                        form: Form::Bare,
                        deadline,
                    });
                    apply(&Mutation::Expire { key });
                }
                Cell::Gone { .. } => {}
            }
        }
        state
    }
}

/// The state and its model side by side, with the log between them.
struct Pair {
    state: State,
    model: Model,
    now: u64,
    released: u64,
    log: Vec<Vec<u8>>,
}

impl Pair {
    fn new(retention: u64) -> Self {
        let model = Model {
            retention,
            cells: BTreeMap::new(),
            cleared_at: 0,
            keyring: Keyring::default(),
        };
        Self {
            state: State::new(retention),
            model,
            now: 0,
            released: 0,
            log: Vec::new(),
        }
    }

    fn last(&self) -> u64 {
        self.log.len() as u64
    }

    fn apply(&mut self, mutation: &Mutation<'_>) {
        let mut bytes = Vec::new();
        mutation.encode(&mut bytes);
        assert_eq!(bytes.len(), mutation.encoded_len());
        self.log.push(bytes);
        let sequence = self.last();
        let applied = self.state.apply(sequence, mutation);
        assert_eq!(
            applied.keyring_changed,
            self.model.apply(sequence, mutation),
            "{mutation:?}"
        );
        assert_eq!(
            applied.freed.is_some(),
            *mutation == Mutation::Clear,
            "{mutation:?}"
        );
    }

    fn release(&mut self, sequence: u64) {
        self.released = self.released.max(sequence);
        self.state.released(self.released);
        self.model.released(self.released);
    }

    fn replay(&mut self) {
        let digest = self.state.digest();
        let log = || (1..).zip(self.log.iter().map(Vec::as_slice));
        let mut state = State::new(self.model.retention);
        for (sequence, bytes) in log() {
            let decoded = Mutation::decode(bytes);
            let applied = decoded.map(|mutation| state.apply(sequence, &mutation));
            assert!(applied.is_ok(), "{}: {applied:?}", bytes.escape_ascii());
        }
        assert_eq!(state.digest(), digest, "replayed");
        // As a start does it: in stretches that are sorted by their keys. It goes on with the last one.
        for stretch_len in [usize::MAX, 7] {
            self.state = State::new(self.model.retention);
            let mut left = log().peekable();
            while left.peek().is_some() {
                let changes = Changes::sorted(left.by_ref().take(stretch_len), 0);
                let applied = changes.and_then(|changes| changes.apply(&mut self.state));
                assert_eq!(applied, Ok(()), "{stretch_len} together");
            }
            assert_eq!(
                self.state.digest(),
                digest,
                "replayed, {stretch_len} together"
            );
        }
        self.release(self.last());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put {
                key,
                value,
                form,
                ttl,
            } => {
                let deadline = ttl.map(|ttl| self.now.saturating_add(ttl));
                self.apply(&Mutation::Put {
                    key,
                    value: value.as_slice().into(),
                    form,
                    deadline,
                });
            }
            Step::Delete(key) => self.apply(&Mutation::Delete { key }),
            Step::Link(key, document, len) => {
                let (collection, record_id) = DOCUMENTS[document];
                let metadata = (len > 0).then(|| Bytes::from(vec![b'1'; len]));
                let created_at = self.now;
                self.apply(&Mutation::Link {
                    key,
                    collection,
                    record_id,
                    metadata,
                    created_at,
                });
            }
            Step::Unlink(key, document) => {
                let (collection, record_id) = DOCUMENTS[document];
                self.apply(&Mutation::Unlink {
                    key,
                    collection,
                    record_id,
                });
            }
            Step::Clear => self.apply(&Mutation::Clear),
            Step::Expire(key) => self.apply(&Mutation::Expire { key }),
            Step::Forget(key) => self.apply(&Mutation::Forget { key }),
            Step::HashingKey(byte) => {
                self.apply(&Mutation::HashingKey {
                    hashing_key: [byte; 32],
                });
            }
            Step::ApiKey { id, role, digest } => {
                let digest: KeyDigest = [digest; 32];
                self.apply(&Mutation::ApiKey { id, role, digest });
            }
            Step::ApiKeyRemoved(id) => self.apply(&Mutation::ApiKeyRemoved { id }),
            Step::Sweep(max) => {
                for due in self.state.due(self.now, max) {
                    self.apply(&due.mutation());
                }
            }
            Step::Clock(now) => self.now = now,
            Step::Release(lag) => self.release(self.last().saturating_sub(lag)),
            Step::Replay => self.replay(),
        }
    }

    fn check(&self) {
        let (state, model) = (&self.state, &self.model);
        let agenda = model.agenda();
        // A deadline and the end of a retention lie within this range of each due time.
        let turns = agenda.iter().flat_map(|(at, _)| {
            [
                at.saturating_sub(1),
                *at,
                at.saturating_add(model.retention),
            ]
            .map(|turn| [turn.saturating_sub(1), turn])
        });
        let times = turns.flatten().chain([0, self.now, u64::MAX]);
        for now in times {
            for key in KEYS.iter().chain(&["never set"]) {
                let expected = model.lookup(key, now);
                assert_eq!(state.get(key, now), expected, "{key:?} at {now}");
                let live = match expected.slot {
                    Shown::Found(entry) => Some(entry),
                    _ => None,
                };
                assert_eq!(state.live(key, now), live, "{key:?} at {now}");
            }
            let due: Vec<Due> = agenda
                .iter()
                .filter(|(at, _)| *at <= now)
                .map(|(_, due)| due.clone())
                .collect();
            assert_eq!(state.due(now, usize::MAX), due, "due at {now}");
            assert_eq!(state.due(now, 2), due[..due.len().min(2)], "due at {now}");
        }
        assert_eq!(state.next_due(), agenda.first().map(|(at, _)| *at));
        assert_eq!(state.iter().collect::<Vec<_>>(), model.values());
        assert_eq!(state.live_len(), model.values().len());
        assert_eq!(state.remembered_len(), model.expired_len());
        assert_eq!(state.keyring(), &model.keyring);
        let fresh = model.fresh_state();
        assert!(state.memory_bytes() >= fresh.memory_bytes());
        if self.released == self.last() {
            assert_eq!(
                state.memory_bytes(),
                fresh.memory_bytes(),
                "memory of what is released"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_does_what_the_model_does(
        retention in prop_oneof![Just(0), 1..30_u64, Just(u64::MAX)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut pair = Pair::new(retention);
        for step in steps {
            pair.step(step);
            pair.check();
        }
        for key in KEYS {
            pair.apply(&Mutation::Delete { key });
        }
        pair.release(pair.last());
        pair.check();
        prop_assert_eq!(pair.state.memory_bytes(), 0, "nothing is left, so nothing is counted");
    }
}

fn put(key: &'static str, deadline: Option<u64>) -> Mutation<'static> {
    Mutation::Put {
        key,
        value: b"{}".into(),
        form: Form::Bare,
        deadline,
    }
}

#[test]
fn an_expired_key_is_remembered_then_forgotten_without_anyone_sweeping() {
    let mut pair = Pair::new(50);
    pair.apply(&put("k", Some(100)));
    let seen = |now| pair.state.get("k", now).slot;
    assert!(matches!(seen(99), Shown::Found(_)));
    assert_eq!(seen(100), Shown::Expired { deadline: 100 });
    assert_eq!(seen(149), Shown::Expired { deadline: 100 });
    assert_eq!(seen(150), Shown::Missing);
    assert_eq!(pair.state.live("k", 100), None);
}

#[test]
fn an_absence_depends_on_what_made_it_until_that_is_released() {
    let mut pair = Pair::new(0);
    pair.apply(&put("k", None));
    pair.apply(&Mutation::Delete { key: "k" });
    assert_eq!(
        pair.state.get("k", 0),
        Lookup {
            gate: 2,
            slot: Shown::Missing
        }
    );
    pair.release(1);
    assert_eq!(pair.state.get("k", 0).gate, 2);
    pair.release(2);
    assert_eq!(pair.state.get("k", 0).gate, 0);
    pair.apply(&Mutation::Clear);
    assert_eq!(pair.state.get("k", 0).gate, 3);
    assert_eq!(pair.state.get("never set", 0).gate, 3);
}

#[test]
fn a_released_delete_leaves_a_key_alone_that_was_set_again() {
    let mut pair = Pair::new(0);
    pair.apply(&put("k", None));
    pair.apply(&Mutation::Delete { key: "k" });
    pair.apply(&put("k", None));
    pair.release(2);
    assert_eq!(pair.state.live("k", 0).map(|entry| entry.version), Some(3));
    pair.apply(&Mutation::Delete { key: "k" });
    pair.release(3);
    assert_eq!(
        pair.state.get("k", 0).gate,
        4,
        "the second delete is not released yet"
    );
}

#[test]
fn keys_past_their_retention_expire_first_and_are_forgotten_next() {
    let mut pair = Pair::new(10);
    pair.apply(&put("old", Some(1)));
    assert_eq!(pair.state.due(1_000, 9), [Due::Expire("old".into())]);
    pair.apply(&Mutation::Expire { key: "old" });
    assert_eq!(pair.state.next_due(), Some(11));
    assert_eq!(pair.state.due(1_000, 9), [Due::Forget("old".into())]);
    pair.apply(&Mutation::Forget { key: "old" });
    assert_eq!(pair.state.due(1_000, 9), []);
    pair.check();
}

#[test]
fn a_clear_gives_all_memory_back_at_once() {
    let mut pair = Pair::new(10);
    for key in KEYS {
        pair.apply(&put(key, Some(5)));
    }
    pair.apply(&Mutation::Expire { key: "a" });
    pair.apply(&Mutation::Delete { key: "aa" });
    assert!(pair.state.memory_bytes() > 0);
    pair.apply(&Mutation::Clear);
    assert_eq!(pair.state.memory_bytes(), 0);
    assert_eq!((pair.state.live_len(), pair.state.remembered_len()), (0, 0));
    assert_eq!(pair.state.next_due(), None);
    assert_eq!(pair.state.digest(), State::new(10).digest());
    pair.release(pair.last());
    pair.check();
}

#[test]
fn a_change_takes_as_much_memory_as_foretold() {
    let mut pair = Pair::new(0);
    let link = |metadata: Option<&'static [u8]>| Mutation::Link {
        key: "b/c",
        collection: "users",
        record_id: "1",
        metadata: metadata.map(Bytes::from_static),
        created_at: 1,
    };
    let grows = [
        put("b/c", Some(7)),
        put("b/c", None),
        put("a", Some(7)),
        link(Some(b"{}")),
        link(None),
        put("b/c", Some(9)),
    ];
    for mutation in grows {
        let before = pair.state.memory_bytes();
        let (comes, goes) = (pair.state.comes(&mutation), pair.state.goes(&mutation));
        pair.apply(&mutation);
        assert_eq!(
            pair.state.memory_bytes(),
            before + comes - goes,
            "{mutation:?}"
        );
    }
}
