//! Clients that ask one thing after the other over a connection that stays, and write down what they
//! asked and what they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use super::request::{
    Request, batch_delete, batch_get, clear, delete, find, get, if_match, step, take,
};
use super::{Call, Operation, Outcome, Step, Value, When};
use crate::common::Client;
use crate::common::draw::Draw;

/// At most so many clients: the length of a value, modulo this, names the one who wrote it.
const CLIENTS_MAX: usize = 16;
/// So many requests go to about the same key, so that clients meet.
const REQUESTS_PER_FOCUS: u64 = 12;
/// The binary's limit in these tests.
const BATCH_KEYS_MAX: usize = 100;

/// The client that wrote a value of so many bytes.
pub(crate) fn client_of(bytes: usize) -> usize {
    bytes % CLIENTS_MAX
}

/// What all clients of a history share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: AtomicU64,
    values: AtomicU64,
    requests: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            clock: AtomicU64::new(0),
            values: AtomicU64::new(1),
            requests: AtomicU64::new(0),
        }
    }

    /// The next time of the clock.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// Which keys there are while a process lives.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Those that are asked for.
    pub(crate) live: Vec<String>,
    /// Prefixes of the live ones, each short enough for a find that is one view.
    pub(crate) prefixes: Vec<String>,
    /// All that there have ever been, which a clear removes.
    pub(crate) ever: Vec<String>,
}

/// What a client keeps while processes come and go.
pub(crate) struct Memory {
    pub(crate) name: usize,
    draw: Draw,
    /// What it last saw of a key: value and version.
    known: BTreeMap<String, (Value, u64)>,
}

impl Memory {
    pub(crate) fn new(name: usize, seed: u64) -> Self {
        assert!(name < CLIENTS_MAX);
        Self {
            name,
            draw: Draw(seed),
            known: BTreeMap::new(),
        }
    }
}

/// One client of one process, and its history.
pub(crate) struct Recorder<'a> {
    shared: &'a Shared,
    memory: &'a mut Memory,
    bearer: String,
    connection: Client,
    pub(crate) operations: Vec<Operation>,
}

impl<'a> Recorder<'a> {
    /// Connects, unless the server is gone.
    pub(crate) fn connect(
        shared: &'a Shared,
        memory: &'a mut Memory,
        address: SocketAddr,
        token: &str,
    ) -> Option<Self> {
        Some(Self {
            shared,
            memory,
            bearer: format!("Bearer {token}"),
            connection: Client::try_new(address).ok()?,
            operations: Vec::new(),
        })
    }

    /// Asks this and that until the server is gone. Each answer is reported.
    pub(crate) fn ask(&mut self, keys: &Keys, answered: &Sender<()>) {
        loop {
            let request = self.next(keys);
            match self.send(request) {
                Sent::Answered => {
                    let _ = answered.send(());
                }
                Sent::Busy => {}
                Sent::Gone => return,
            }
        }
    }

    /// Reads every key, in batches and alone.
    pub(crate) fn read_all(&mut self, keys: &[String]) {
        for batch in keys.chunks(BATCH_KEYS_MAX) {
            self.must(batch_get(batch));
        }
        for key in keys {
            self.must(get(key));
        }
    }

    fn must(&mut self, request: Request) {
        assert!(matches!(self.send(request), Sent::Answered));
    }

    fn next(&mut self, keys: &Keys) -> Request {
        let requests = self.shared.requests.fetch_add(1, Ordering::SeqCst);
        let focus = requests / REQUESTS_PER_FOCUS + self.memory.draw.below(2);
        let key = keys.live[focus as usize % keys.live.len()].clone();
        let remembered = self.memory.known.get(&key).copied();
        let always = When::Always;
        match (self.memory.draw.below(1000), remembered) {
            (0..300, _) => get(&key),
            (300..480, _) => self.set(key, always, None, false),
            (480..530, _) => self.set(key, always, None, true),
            (530..610, _) => delete(key, always, None),
            (610..700, _) => self.set(
                key,
                When::Absent,
                Some(("If-None-Match", "*".to_owned())),
                false,
            ),
            (700..800, Some((value, version))) => {
                self.set(key, When::Holds(value), Some(if_match(version)), false)
            }
            (800..840, Some((value, version))) => {
                delete(key, When::Holds(value), Some(if_match(version)))
            }
            (700..840, None) => get(&key),
            (840..890, _) => self.batch_set(&self.some(keys, focus)),
            (890..920, _) => batch_delete(&self.some(keys, focus)),
            (920..960, _) => batch_get(&self.some(keys, focus)),
            (960..997, _) => {
                let prefix = self.memory.draw.of(&keys.prefixes).clone();
                find(&prefix, &keys.live)
            }
            _ => clear(&keys.ever),
        }
    }

    /// Three neighbours.
    fn some(&self, keys: &Keys, focus: u64) -> Vec<String> {
        (0..3)
            .map(|offset| keys.live[(focus as usize + offset) % keys.live.len()].clone())
            .collect()
    }

    /// A value that nobody else writes, with its text.
    fn value(&mut self) -> (Value, String) {
        let value = self.shared.values.fetch_add(1, Ordering::SeqCst);
        let mut text = format!("\"#{value}:");
        // From some bytes to several blocks of the log.
        text.push_str(&"x".repeat(self.memory.draw.below(3_000) as usize));
        while (text.len() + 1) % CLIENTS_MAX != self.memory.name {
            text.push('x');
        }
        text.push('"');
        (value, text)
    }

    fn set(
        &mut self,
        key: String,
        when: When,
        condition: Option<(&'static str, String)>,
        expires: bool,
    ) -> Request {
        let (value, body) = self.value();
        let ttl = if expires {
            format!("?ttl={}ms", 1 + self.memory.draw.below(40))
        } else {
            String::new()
        };
        let call = Call::Set {
            value,
            when,
            expires,
        };
        Request {
            method: "POST",
            target: format!("/api/kv/set/{key}{ttl}"),
            condition,
            body,
            steps: vec![step(&key, call)],
        }
    }

    fn batch_set(&mut self, keys: &[String]) -> Request {
        let (values, texts): (Vec<Value>, Vec<String>) = keys.iter().map(|_| self.value()).unzip();
        let steps = keys.iter().zip(&values).map(|(key, value)| {
            let call = Call::Set {
                value: *value,
                when: When::Always,
                expires: false,
            };
            step(key, call)
        });
        Request {
            method: "POST",
            target: "/api/kv/batch/set".to_owned(),
            condition: None,
            body: format!(
                r#"{{"keys":{},"values":[{}]}}"#,
                serde_json::json!(keys),
                texts.join(",")
            ),
            steps: steps.collect(),
        }
    }

    fn send(&mut self, request: Request) -> Sent {
        let Request {
            method,
            target,
            condition,
            body,
            mut steps,
        } = request;
        let mut headers = vec![("Authorization", self.bearer.as_str())];
        headers.extend(
            condition
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        let invoked = self.shared.tick();
        let answer = self
            .connection
            .try_request(method, &target, &headers, body.as_bytes());
        let returned = self.shared.tick();
        let version = match &answer {
            // Refused, and said so: nothing has happened.
            Ok(answer) if answer.status == 429 => return Sent::Busy,
            Ok(answer) => {
                let version = answer.header("x-kv-version").map(|v| v.parse().unwrap());
                take(&mut steps, answer, version, &format!("{method} {target}"));
                self.remember(&steps);
                version
            }
            Err(_) => None,
        };
        self.operations.push(Operation {
            client: self.memory.name,
            invoked,
            returned,
            answered: answer.is_ok(),
            version,
            steps,
        });
        if answer.is_ok() {
            Sent::Answered
        } else {
            Sent::Gone
        }
    }

    fn remember(&mut self, steps: &[Step]) {
        for step in steps {
            let value = match step.outcome {
                Outcome::Shown(value) => value,
                Outcome::Changed => step.sets(),
                _ => continue,
            };
            if let (Some(value), Some(version)) = (value, step.version) {
                self.memory.known.insert(step.key.clone(), (value, version));
            }
        }
    }
}

enum Sent {
    Answered,
    /// The server did not take it.
    Busy,
    /// There was no answer.
    Gone,
}

/// Marks the end of a process at which requests without an answer ended, too. Gets among them say
/// nothing.
pub(crate) fn end(operations: &mut Vec<Operation>, killed: u64) {
    for operation in operations
        .iter_mut()
        .filter(|operation| !operation.answered)
    {
        operation.returned = killed;
    }
    operations.retain(|operation| {
        operation.answered || operation.steps.iter().any(|step| step.call != Call::Get)
    });
}
