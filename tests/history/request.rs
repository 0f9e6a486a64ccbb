//! Requests, and what their answers say of each key.

use std::collections::BTreeMap;

use super::{Call, Outcome, Step, Value, When};
use crate::common::Response;

/// What is to be sent, and the steps of it, whose outcomes are open.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) condition: Option<(&'static str, String)>,
    pub(super) body: String,
    pub(super) steps: Vec<Step>,
}

pub(super) fn step(key: &str, call: Call) -> Step {
    Step {
        key: key.to_owned(),
        call,
        outcome: Outcome::Unknown,
        version: None,
    }
}

pub(super) fn if_match(version: u64) -> (&'static str, String) {
    ("If-Match", format!("\"{version}\""))
}

pub(super) fn get(key: &str) -> Request {
    Request {
        method: "GET",
        target: format!("/api/kv/get/{key}"),
        condition: None,
        body: String::new(),
        steps: vec![step(key, Call::Get)],
    }
}

pub(super) fn delete(
    key: String,
    when: When,
    condition: Option<(&'static str, String)>,
) -> Request {
    Request {
        method: "DELETE",
        target: format!("/api/kv/delete/{key}"),
        condition,
        body: String::new(),
        steps: vec![step(&key, Call::Delete { when })],
    }
}

pub(super) fn batch_get(keys: &[String]) -> Request {
    Request {
        method: "POST",
        target: "/api/kv/batch/get".to_owned(),
        condition: None,
        body: serde_json::json!({ "keys": keys }).to_string(),
        steps: keys.iter().map(|key| step(key, Call::Get)).collect(),
    }
}

pub(super) fn batch_delete(keys: &[String]) -> Request {
    let when = When::Always;
    Request {
        method: "DELETE",
        target: "/api/kv/batch/delete".to_owned(),
        condition: None,
        body: serde_json::json!({ "keys": keys }).to_string(),
        steps: keys
            .iter()
            .map(|key| step(key, Call::Delete { when }))
            .collect(),
    }
}

/// A find with a limit is one view of all keys with the prefix.
pub(super) fn find(prefix: &str, keys: &[String]) -> Request {
    Request {
        method: "POST",
        target: "/api/kv/find".to_owned(),
        condition: None,
        body: serde_json::json!({ "prefix": prefix, "limit": 1000 }).to_string(),
        steps: keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(|key| step(key, Call::Get))
            .collect(),
    }
}

pub(super) fn clear(keys: &[String]) -> Request {
    Request {
        method: "DELETE",
        target: "/api/kv/clear".to_owned(),
        condition: None,
        body: String::new(),
        steps: keys.iter().map(|key| step(key, Call::Clear)).collect(),
    }
}

/// Writes the outcomes of an answer into the steps.
pub(super) fn take(steps: &mut [Step], answer: &Response, version: Option<u64>, what: &str) {
    let text = answer.text();
    let tag = answer.header("etag");
    let tag = tag.map(|tag| tag.trim_matches('"').parse().unwrap());
    let json = || serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let single = steps.len() == 1 && !what.contains("/batch/");
    match (answer.status, steps[0].call) {
        (404, Call::Get) if single => steps[0].outcome = Outcome::Shown(None),
        (412, _) => {
            steps[0].outcome = Outcome::Refused;
            steps[0].version = tag;
        }
        (200, Call::Get) if what.ends_with("/find") => {
            let found = json();
            let found: BTreeMap<&str, &serde_json::Value> = found
                .as_array()
                .unwrap()
                .iter()
                .map(|record| (record["key"].as_str().unwrap(), record))
                .collect();
            assert!(
                found
                    .keys()
                    .all(|key| steps.iter().any(|step| step.key == *key))
            );
            for step in steps {
                let record = found.get(step.key.as_str());
                step.outcome = Outcome::Shown(record.map(|r| number(&r["value"].to_string())));
                step.version = record.map(|record| record["version"].as_u64().unwrap());
            }
        }
        (200, Call::Get) if single => {
            steps[0].outcome = Outcome::Shown((text != "{}").then(|| number(&text)));
            steps[0].version = tag;
        }
        (200, Call::Get) => {
            let found = json();
            let found = found.as_array().unwrap();
            assert_eq!(found.len(), steps.len(), "{what}: {text}");
            for (step, found) in steps.iter_mut().zip(found) {
                let found = found.to_string();
                step.outcome = Outcome::Shown((found != "{}").then(|| number(&found)));
            }
        }
        (200, Call::Set { .. }) if single => {
            steps[0].outcome = Outcome::Changed;
            steps[0].version = tag;
        }
        (200, Call::Delete { .. }) if single => {
            let there = json()["deleted"].as_bool().unwrap();
            changed(steps, &[there], version);
        }
        (200, Call::Set { .. } | Call::Delete { .. }) => {
            let outcomes: Vec<bool> = json()
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| pair[1].as_bool().unwrap())
                .collect();
            changed(steps, &outcomes, version);
        }
        (200, Call::Clear) => {
            for step in steps {
                step.outcome = Outcome::Changed;
                step.version = version;
            }
        }
        (other, _) => panic!("{what}: {other} {text}"),
    }
}

/// The changes of a request are consecutive, and the answer names the last.
fn changed(steps: &mut [Step], outcomes: &[bool], last: Option<u64>) {
    assert_eq!(steps.len(), outcomes.len());
    let mut version = last;
    for (step, changed) in steps.iter_mut().zip(outcomes).rev() {
        if *changed {
            step.outcome = Outcome::Changed;
            step.version = version;
            version = version.and_then(|version| version.checked_sub(1));
        } else {
            // Of a set this says that it was refused, which these are not.
            step.outcome = Outcome::Unchanged;
        }
    }
}

/// The number in a value, whatever surrounds it. A text that nobody sent has none that anybody wrote.
fn number(text: &str) -> Value {
    text.split_once('#')
        .and_then(|(_, rest)| rest.split_once(':'))
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(Value::MAX)
}
