//! Any bytes as the body of a find over some keys: what is accepted finds, in slices, what looking at
//! each key with plain means finds.
//!
//! The body ends at the first NUL, which JSON does not have; the texts behind it are more keys.

use std::collections::BTreeMap;

use ekokv::http::fuzzing::find;
use ekokv::state::find::{Cursor, Hit, Query};
use ekokv::state::{Form, Mutation, State};
use regex::Regex;
use serde_json::{Map, Value};

const NOW: u64 = 2_000;
const MORE_KEYS_MAX: usize = 16;
const KEY_BYTES_MAX: usize = 64;

/// What there is under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Value,
    /// A value whose deadline has passed, whether that was noticed or not.
    Expired,
    /// It was deleted, and is remembered until that is released.
    Nothing,
}

type Keys = BTreeMap<String, There>;

/// Short keys of a few characters, so that patterns hit some, and the keys of the input.
fn keys(more: &str) -> Keys {
    const CHARACTERS: [&str; 5] = ["a", "b", ":", "-", "é"];
    let mut names: Vec<String> = [
        "\n",
        "A",
        "[",
        "]",
        "*",
        "\\",
        "^",
        "\u{10ffff}",
        "a\u{d7ff}",
    ]
    .map(str::to_owned)
    .to_vec();
    for first in CHARACTERS {
        names.push(first.to_owned());
        for second in CHARACTERS {
            names.push(format!("{first}{second}"));
            for third in CHARACTERS {
                names.push(format!("{first}{second}{third}"));
            }
        }
    }
    let more = more
        .split('\0')
        .filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
    names.extend(more.take(MORE_KEYS_MAX).map(str::to_owned));
    let there = [
        There::Value,
        There::Value,
        There::Expired,
        There::Value,
        There::Nothing,
    ];
    names.into_iter().zip(there.into_iter().cycle()).collect()
}

fn state(keys: &Keys) -> State {
    let mut state = State::new(1_000_000);
    let mut sequence = 0;
    let mut apply = |mutation: &Mutation<'_>| {
        sequence += 1;
        let _ = state.apply(sequence, mutation);
    };
    for (index, (key, there)) in keys.iter().enumerate() {
        apply(&Mutation::Put {
            key,
            value: b"1".into(),
            form: Form::Bare,
            deadline: (*there == There::Expired).then_some(NOW),
        });
        match there {
            There::Nothing => apply(&Mutation::Delete { key }),
            There::Expired if index % 2 == 0 => apply(&Mutation::Expire { key }),
            There::Value | There::Expired => {}
        }
    }
    state
}

/// One step of a glob: a character that is one of these ranges (or none of them), or any text.
enum Step {
    One {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Any,
}

/// The steps of a glob that is valid.
fn steps(glob: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut chars = glob.chars().peekable();
    while let Some(char) = chars.next() {
        let mut one = |negated, ranges| steps.push(Step::One { negated, ranges });
        match char {
            '*' => steps.push(Step::Any),
            '?' => one(true, Vec::new()),
            '\\' => {
                let char = chars.next().unwrap();
                one(false, vec![(char, char)]);
            }
            '[' => {
                let negated = chars.next_if(|next| matches!(next, '!' | '^')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let low = match chars.next().unwrap() {
                        ']' if !ranges.is_empty() => break,
                        '\\' => chars.next().unwrap(),
                        other => other,
                    };
                    let mut ahead = chars.clone();
                    let is_range =
                        ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']');
                    let high = if is_range {
                        chars.next();
                        match chars.next().unwrap() {
                            '\\' => chars.next().unwrap(),
                            other => other,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                one(negated, ranges);
            }
            char => one(false, vec![(char, char)]),
        }
    }
    steps
}

/// Whether the steps match the whole key: which of its places can be reached, step by step.
fn glob_matches(steps: &[Step], key: &str) -> bool {
    let chars: Vec<char> = key.chars().collect();
    let mut reached = vec![false; chars.len() + 1];
    reached[0] = true;
    for step in steps {
        let mut next = vec![false; reached.len()];
        match step {
            Step::Any => {
                let from = reached
                    .iter()
                    .position(|reached| *reached)
                    .unwrap_or(next.len());
                next[from..].fill(true);
            }
            Step::One { negated, ranges } => {
                for (at, char) in chars.iter().enumerate() {
                    let member = ranges
                        .iter()
                        .any(|(low, high)| (low..=high).contains(&char));
                    next[at + 1] = reached[at] && member != *negated;
                }
            }
        }
        reached = next;
    }
    reached[chars.len()]
}

/// What a request finds, by looking at every key.
fn expected(members: &Map<String, Value>, keys: &Keys) -> Vec<(String, There)> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let number = |name: &str| members.get(name).and_then(Value::as_u64);
    let flag = |name: &str| members.get(name).and_then(Value::as_bool).unwrap_or(false);
    let pattern = text("pattern").map(|pattern| Regex::new(pattern).unwrap());
    let glob = text("glob").map(steps);
    let mut found: Vec<_> = keys
        .iter()
        .filter(|(key, there)| match there {
            There::Value => true,
            There::Expired => flag("include_expired"),
            There::Nothing => false,
        } && text("prefix").is_none_or(|prefix| key.starts_with(prefix))
            && text("suffix").is_none_or(|suffix| key.ends_with(suffix))
            && text("contains").is_none_or(|part| key.contains(part))
            && pattern.as_ref().is_none_or(|pattern| pattern.is_match(key))
            && glob.as_ref().is_none_or(|glob| glob_matches(glob, key)))
        .map(|(key, there)| (key.clone(), *there))
        .collect();
    if flag("reverse") {
        found.reverse();
        found.retain(|(key, _)| text("after").is_none_or(|after| key.as_str() < after));
    } else {
        found.retain(|(key, _)| text("after").is_none_or(|after| key.as_str() > after));
    }
    let saturated = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    found
        .into_iter()
        .skip(saturated(number("offset").unwrap_or(0)))
        .take(number("limit").map_or(usize::MAX, saturated))
        .collect()
}

/// What the query finds, slice by slice, each as short as it can be.
fn found(query: &Query, state: &State, keys: &Keys) -> Vec<(String, There)> {
    let mut found = Vec::new();
    let mut cursor = Some(Cursor::default());
    let mut slices = 0;
    while let Some(at) = cursor {
        slices += 1;
        assert!(slices <= keys.len() + 1, "it does not come to an end");
        let (mut slice, _) = query.walk(state, &at, NOW, || true);
        if query.has_patterns() {
            slice = query.narrow(slice, &at, || true);
        }
        for record in slice.records {
            let there = match record.hit {
                Hit::Live { value, .. } => {
                    assert_eq!(value.is_none(), query.keys_only());
                    There::Value
                }
                Hit::Expired => There::Expired,
            };
            found.push((String::from(record.key), there));
        }
        cursor = slice.next;
    }
    found
}

pub fn run(bytes: &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let (body, more) = bytes.split_at(end);
    let query = match find(body) {
        Ok(query) => query,
        Err(message) => {
            assert!(message.len() < 1_000, "a refusal is a sentence: {message}");
            return;
        }
    };
    // Members that are doubled or not known are refused, so this map says the same.
    let members: Map<String, Value> = serde_json::from_slice(body).unwrap();
    let keys = keys(&String::from_utf8_lossy(more));
    let state = state(&keys);
    assert_eq!(found(&query, &state, &keys), expected(&members, &keys));
}
