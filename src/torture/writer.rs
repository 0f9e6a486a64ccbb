//! A client that writes, and knows what must be there afterwards.
//!
//! The keys of a writer are its own, so what they hold follows from its requests alone. A request that was
//! not answered was carried out whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use super::client::Client;
use super::draw::Draw;
use crate::store::Failure;

const KEYS: u64 = 12;
const BATCH_KEYS: u64 = 5;
/// Lengths from some bytes to several blocks of the log.
const PADDING_BYTES_MAX: u64 = 9_000;

/// A key's value with its version, if that is known (of a batch only the last one's is).
type Value = Option<(String, Option<u64>)>;

/// A request, and what each key holds if it is carried out.
struct Sent {
    method: &'static str,
    path: String,
    body: String,
    effect: BTreeMap<String, Value>,
}

/// What was found after a kill.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Acknowledged, and not there.
    pub(super) lost: Vec<String>,
    pub(super) carried_out: u64,
    pub(super) absent: u64,
}

pub(super) struct Writer {
    index: u64,
    draw: Draw,
    serial: u64,
    expected: BTreeMap<String, Value>,
    unanswered: Option<Sent>,
    pub(super) acknowledged: u64,
}

impl Writer {
    pub(super) fn new(index: u64, seed: u64) -> Self {
        Self {
            index,
            draw: Draw::new(seed),
            serial: 0,
            expected: BTreeMap::new(),
            unanswered: None,
            acknowledged: 0,
        }
    }

    fn next(&mut self) -> Sent {
        self.serial += 1;
        let (index, serial) = (self.index, self.serial);
        let key = format!("w{index}:{}", self.draw.below(KEYS));
        let batch: Vec<String> = (0..BATCH_KEYS)
            .map(|i| format!("w{index}:batch:{i}"))
            .collect();
        let names = batch
            .iter()
            .map(|key| format!("{key:?}"))
            .collect::<Vec<_>>()
            .join(",");
        match self.draw.below(10) {
            0..6 => {
                let bytes = self.draw.below(PADDING_BYTES_MAX);
                let padding = "x".repeat(usize::try_from(bytes).unwrap_or_default());
                let value = format!(r#""{index}:{serial}:{padding}""#);
                Sent {
                    method: "POST",
                    path: format!("/api/kv/set/{key}"),
                    body: value.clone(),
                    effect: BTreeMap::from([(key, Some((value, None)))]),
                }
            }
            6..8 => Sent {
                method: "DELETE",
                path: format!("/api/kv/delete/{key}"),
                body: String::new(),
                effect: BTreeMap::from([(key, None)]),
            },
            8 => {
                let value = format!(r#"{{"batch":"{index}:{serial}"}}"#);
                let values = vec![value.as_str(); batch.len()].join(",");
                // What came in a batch is answered as in an envelope.
                let stored = format!(r#"{{"value":{value}}}"#);
                let effect = batch
                    .into_iter()
                    .map(|key| (key, Some((stored.clone(), None))));
                Sent {
                    method: "POST",
                    path: "/api/kv/batch/set".to_owned(),
                    body: format!(r#"{{"keys":[{names}],"values":[{values}]}}"#),
                    effect: effect.collect(),
                }
            }
            _ => Sent {
                method: "DELETE",
                path: "/api/kv/batch/delete".to_owned(),
                body: format!(r#"{{"keys":[{names}]}}"#),
                effect: batch.into_iter().map(|key| (key, None)).collect(),
            },
        }
    }

    /// Writes until the server is gone; each acknowledgement is reported.
    ///
    /// # Errors
    /// If the server answers what it must not.
    pub(super) fn write(
        &mut self,
        address: SocketAddr,
        token: &str,
        acknowledged: &Sender<()>,
    ) -> Result<(), Failure> {
        let Ok(mut client) = Client::new(address, token) else {
            return Ok(());
        };
        while let Some(answer) = self.write_one(&mut client)? {
            if answer {
                let _ = acknowledged.send(());
            }
        }
        Ok(())
    }

    /// Sends one request; whether it was acknowledged, `None` if the server is gone.
    pub(super) fn write_one(&mut self, client: &mut Client) -> Result<Option<bool>, Failure> {
        let sent = self.next();
        let Ok(answer) = client.call(sent.method, &sent.path, &sent.body) else {
            self.unanswered = Some(sent);
            return Ok(None);
        };
        match answer.status {
            200 => {}
            // Refused, and said so: nothing has happened.
            429 => return Ok(Some(false)),
            status => {
                return Err(Failure::Storage(format!(
                    "{} {} is answered with {status}: {}",
                    sent.method, sent.path, answer.body
                )));
            }
        }
        for (key, value) in sent.effect {
            let value = value.map(|(text, _)| (text, answer.version));
            self.expected.insert(key, value);
        }
        self.acknowledged += 1;
        Ok(Some(true))
    }

    /// Compares what is there with what must be; from here on what is there is expected.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(super) fn check(&mut self, client: &mut Client) -> Result<Outcome, Failure> {
        let pending = self.unanswered.take();
        let touched: BTreeSet<&String> =
            pending.iter().flat_map(|sent| sent.effect.keys()).collect();
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        for key in self.expected.keys().chain(touched.iter().copied()) {
            if !found.contains_key(key) {
                found.insert(key.clone(), get(client, key)?);
            }
        }
        let agrees = |key: &String, expected: &Value| match (found.get(key), expected) {
            (Some(None) | None, None) => true,
            (Some(Some((text, version))), Some((expected, known))) => {
                text == expected && (known.is_none() || known == version)
            }
            _ => false,
        };
        let mut outcome = Outcome::default();
        if let Some(sent) = &pending {
            let before = |key: &String| self.expected.get(key).cloned().flatten();
            if sent.effect.iter().all(|(key, value)| agrees(key, value)) {
                outcome.carried_out += 1;
            } else if sent.effect.keys().all(|key| agrees(key, &before(key))) {
                outcome.absent += 1;
            } else {
                let what = format!("{} {}: it is there in part", sent.method, sent.path);
                outcome.lost.push(what);
            }
        }
        let untouched = self
            .expected
            .iter()
            .filter(|(key, _)| !touched.contains(key));
        for (key, expected) in untouched {
            if !agrees(key, expected) {
                let version = expected.as_ref().and_then(|(_, version)| *version);
                let there = found
                    .get(key)
                    .cloned()
                    .flatten()
                    .and_then(|(_, version)| version);
                outcome.lost.push(format!(
                    "{key}: acknowledged version {version:?}, found {there:?}"
                ));
            }
        }
        self.expected = found;
        Ok(outcome)
    }
}

fn get(client: &mut Client, key: &str) -> Result<Value, Failure> {
    let path = format!("/api/kv/get/{key}");
    let answer = client
        .call("GET", &path, "")
        .map_err(|error| Failure::Storage(format!("GET {path} is not answered: {error}")))?;
    match answer.status {
        200 => Ok(Some((answer.body, answer.version))),
        404 => Ok(None),
        status => Err(Failure::Storage(format!(
            "GET {path} is answered with {status}"
        ))),
    }
}
