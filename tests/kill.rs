//! T3: kill -9 of the real binary under concurrent writers, while it compacts and while it does not, over
//! and over on the same data, and of the starts that follow, while they recover: every acknowledged set,
//! delete and batch is there after the restart with its version, nothing that was never sent is, and each
//! batch is whole or absent. `EKOKV_TEST_LONG=1` does it on thirteen stores in each mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use common::Client;
use common::draw::Draw;
use common::process::Process;
use common::server::DataDir;

const WRITERS: u64 = 8;
const KEYS_PER_WRITER: u64 = 6;
const BATCH_KEYS: u64 = 5;

/// Rounds on each store, in `always` and in each of the other modes.
const ROUNDS_ALWAYS: u64 = 28;
const ROUNDS_OTHERS: u64 = 8;
/// Of two rounds each kills once under writers, and one of them three times behind that.
const _: () = assert!((ROUNDS_ALWAYS + 2 * ROUNDS_OTHERS) * 5 / 2 >= 100);

/// A start changes the files of the data dir about so often.
const CHANGES_OF_A_START: u64 = 12;

/// On how many stores to begin: each has its own writers.
fn seeds() -> std::ops::Range<u64> {
    let long = std::env::var_os("EKOKV_TEST_LONG").is_some();
    0..if long { 13 } else { 1 }
}

/// A key's value with its version, if that is known (of a batch only the last one's is).
type Value = Option<(String, Option<u64>)>;

/// A request and what each key holds if it was carried out.
#[derive(Debug, Clone)]
struct Sent {
    method: &'static str,
    target: String,
    body: String,
    effect: BTreeMap<String, Value>,
}

/// One writer: the keys are its own, so what they hold follows from its requests alone.
struct Writer {
    name: String,
    draw: Draw,
    serial: u64,
    /// What every key must hold.
    expected: BTreeMap<String, Value>,
    /// The request whose answer never came.
    unanswered: Option<Sent>,
    acknowledged: u64,
}

impl Writer {
    fn new(index: u64, seed: u64) -> Self {
        Self {
            name: format!("w{index}"),
            draw: Draw(seed * WRITERS + index + 1),
            serial: 0,
            expected: BTreeMap::new(),
            unanswered: None,
            acknowledged: 0,
        }
    }

    fn next(&mut self) -> Sent {
        self.serial += 1;
        let key = format!("{}-{}", self.name, self.draw.below(KEYS_PER_WRITER));
        // Lengths from some bytes to several blocks of the log.
        let padding = "x".repeat(self.draw.below(3_000) as usize);
        let value = format!(r#""{}:{}:{padding}""#, self.name, self.serial);
        match self.draw.below(10) {
            0..6 => Sent {
                method: "POST",
                target: format!("/api/kv/set/{key}"),
                body: value.clone(),
                effect: BTreeMap::from([(key, Some((value, None)))]),
            },
            6..8 => Sent {
                method: "DELETE",
                target: format!("/api/kv/delete/{key}"),
                body: String::new(),
                effect: BTreeMap::from([(key, None)]),
            },
            8 => self.batch_set(),
            _ => {
                let keys: Vec<String> = self.batch_keys();
                Sent {
                    method: "DELETE",
                    target: "/api/kv/batch/delete".to_owned(),
                    body: serde_json::json!({ "keys": keys }).to_string(),
                    effect: keys.into_iter().map(|key| (key, None)).collect(),
                }
            }
        }
    }

    fn batch_keys(&self) -> Vec<String> {
        (0..BATCH_KEYS)
            .map(|i| format!("{}-batch-{i}", self.name))
            .collect()
    }

    fn batch_set(&self) -> Sent {
        let keys = self.batch_keys();
        let value = format!(r#"{{"batch":"{}:{}"}}"#, self.name, self.serial);
        let values = vec![value.as_str(); keys.len()].join(",");
        Sent {
            method: "POST",
            target: "/api/kv/batch/set".to_owned(),
            body: format!(
                r#"{{"keys":{},"values":[{values}]}}"#,
                serde_json::json!(keys)
            ),
            effect: keys
                .into_iter()
                .map(|key| (key, Some((format!(r#"{{"value":{value}}}"#), None))))
                .collect(),
        }
    }

    /// Writes until the server is gone. Each acknowledgement is reported.
    fn write(&mut self, address: SocketAddr, token: &str, acknowledged: &Sender<()>) {
        let Ok(mut client) = Client::try_new(address) else {
            return;
        };
        let bearer = format!("Bearer {token}");
        loop {
            let sent = self.next();
            let headers = [("Authorization", bearer.as_str())];
            let answer =
                client.try_request(sent.method, &sent.target, &headers, sent.body.as_bytes());
            let Ok(answer) = answer else {
                self.unanswered = Some(sent);
                return;
            };
            match answer.status {
                // Refused, and said so: nothing has happened.
                429 => continue,
                200 => {}
                other => panic!("{} {}: {other} {}", sent.method, sent.target, answer.text()),
            }
            let version = answer
                .header("etag")
                .map(|tag| tag.trim_matches('"').parse().unwrap());
            for (key, value) in sent.effect {
                let value = value.map(|(text, _)| (text, version));
                self.expected.insert(key, value);
            }
            self.acknowledged += 1;
            let _ = acknowledged.send(());
        }
    }

    /// Compares every key with what was acknowledged; the unanswered request was carried out whole
    /// or not at all, and is expected as found from here on.
    fn check(&mut self, client: &mut Client, bearer: &str) -> Unanswered {
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        let pending = self.unanswered.take();
        let keys: BTreeSet<&String> = self
            .expected
            .keys()
            .chain(pending.iter().flat_map(|sent| sent.effect.keys()))
            .collect();
        for key in keys {
            let target = format!("/api/kv/get/{key}");
            let answer = client.request("GET", &target, &[("Authorization", bearer)], b"");
            let value = match answer.status {
                200 => {
                    let version = answer
                        .header("etag")
                        .unwrap()
                        .trim_matches('"')
                        .parse()
                        .unwrap();
                    Some((answer.text(), Some(version)))
                }
                404 => None,
                other => panic!("{target}: {other}"),
            };
            found.insert(key.clone(), value);
        }
        let agrees = |key: &String, expected: &Value| match (&found[key], expected) {
            (None, None) => true,
            (Some((text, version)), Some((expected, known))) => {
                text == expected && (known.is_none() || known == version)
            }
            _ => false,
        };
        let mut outcome = Unanswered::None;
        if let Some(sent) = &pending {
            let before = |key: &String| self.expected.get(key).cloned().flatten();
            let carried_out = sent.effect.iter().all(|(key, value)| agrees(key, value));
            let absent = sent.effect.keys().all(|key| agrees(key, &before(key)));
            assert!(
                carried_out || absent,
                "{} {} is there in part: {:?}",
                sent.method,
                sent.target,
                sent.effect
                    .keys()
                    .map(|key| &found[key])
                    .collect::<Vec<_>>()
            );
            // A delete of a key that is not there looks the same either way.
            outcome = if absent {
                Unanswered::Absent
            } else {
                Unanswered::CarriedOut
            };
        }
        let touched = |key: &String| {
            pending
                .as_ref()
                .is_some_and(|sent| sent.effect.contains_key(key))
        };
        for (key, expected) in &self.expected {
            assert!(
                touched(key) || agrees(key, expected),
                "{key}: acknowledged {expected:?}, found {:?}",
                found[key]
            );
        }
        self.expected = found;
        outcome
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Unanswered {
    None,
    CarriedOut,
    Absent,
}

fn run(durability: &str, kills: u64) {
    for seed in seeds() {
        run_from(seed, durability, kills);
    }
}

fn run_from(seed: u64, durability: &str, kills: u64) {
    let dir = DataDir::new();
    let arguments = ["--durability", durability, "--snapshot-interval", "1s"];
    let mut writers: Vec<Writer> = (0..WRITERS).map(|index| Writer::new(index, seed)).collect();
    let mut draw = Draw(7 + seed);
    let (mut carried_out, mut absent) = (0, 0);
    let (mut compacting, mut unfinished) = (0, 0);
    let (mut starts_killed, mut ready_killed) = (0, 0);
    for round in 0..kills {
        let mut process = Process::start(dir.path(), &arguments);
        let token = process.token();
        let (acknowledged, acknowledgements) = channel();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let (acknowledged, token) = (acknowledged.clone(), token.as_str());
                let address = process.address;
                scope.spawn(move || writer.write(address, token, &acknowledged));
            }
            drop(acknowledged);
            let (address, token) = (process.address, token.as_str());
            let compactions =
                (round % 4 != 0).then(|| scope.spawn(move || compact(address, token)));
            // In the midst of the writing, not before it and not after it.
            for _ in 0..50 + draw.below(600) {
                acknowledgements.recv().unwrap();
            }
            process.kill();
            let was_asked = compactions.is_some_and(|asking| asking.join().unwrap());
            compacting += u64::from(was_asked);
            unfinished += u64::from(holds_unfinished(dir.path()));
        });

        // Every second time the starts after the kill are killed as well: one at once, one while it
        // recovers, and one when it is ready.
        if round % 2 == 1 {
            for changes in [0, 1 + draw.below(CHANGES_OF_A_START)] {
                let (_, ready) =
                    Process::kill_while_starting(dir.path(), &arguments, changes as usize);
                starts_killed += u64::from(!ready);
                ready_killed += u64::from(ready);
            }
            Process::start(dir.path(), &arguments).kill();
            ready_killed += 1;
        }
        let process = Process::start(dir.path(), &arguments);
        let bearer = format!("Bearer {}", process.token());
        let mut client = Client::new(process.address);
        for writer in &mut writers {
            match writer.check(&mut client, &bearer) {
                Unanswered::CarriedOut => carried_out += 1,
                Unanswered::Absent => absent += 1,
                Unanswered::None => {}
            }
        }
    }
    let process = Process::start(dir.path(), &arguments);
    nothing_unsent(&process, &writers);
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged).sum();
    let all = kills + starts_killed + ready_killed;
    println!(
        "{durability}: {all} kills: {kills} under writers, of which {compacting} during a compaction \
         ({unfinished} left an unfinished snapshot), {starts_killed} of starts and {ready_killed} just \
         behind; {acknowledged} writes acknowledged, 0 lost; of the unanswered ones {carried_out} were \
         carried out and {absent} not"
    );
    assert!(starts_killed >= kills / 2, "{starts_killed}");
    assert!(4 * compacting >= all, "{compacting} of {all}");
    assert_eq!(all, kills * 5 / 2);
    assert!(acknowledged > kills * 50);
}

/// Asks for one compaction behind the other until the server is gone; whether it went during one.
fn compact(address: SocketAddr, token: &str) -> bool {
    let Ok(mut client) = Client::try_new(address) else {
        return false;
    };
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    loop {
        match client.try_request("POST", "/api/admin/compact", &headers, b"") {
            Err(_) => return true,
            Ok(answer) => match answer.status {
                200 => {}
                // It stops in order.
                503 => return false,
                other => panic!("{other} {}", answer.text()),
            },
        }
    }
}

fn holds_unfinished(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir.join("snapshots"))
        .into_iter()
        .flatten();
    let mut names = entries.flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(".snap.tmp"))
}

/// The store holds the keys that were found one by one, and no key that nobody sent.
fn nothing_unsent(process: &Process, writers: &[Writer]) {
    let bearer = format!("Bearer {}", process.token());
    let headers = [("Authorization", bearer.as_str())];
    let mut client = Client::new(process.address);
    let found = client.request("POST", "/api/kv/find", &headers, br#"{"keys_only":true}"#);
    let found: Vec<serde_json::Value> = serde_json::from_slice(&found.body).unwrap();
    let found: BTreeSet<&str> = found.iter().map(|r| r["key"].as_str().unwrap()).collect();
    let expected = writers.iter().flat_map(|writer| &writer.expected);
    let expected: BTreeSet<&str> = expected
        .filter(|(_, value)| value.is_some())
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(found, expected);
    assert!(found.len() > 10, "{found:?}");
}

#[test]
fn always_every_acknowledged_write_survives_kill_9() {
    run("always", ROUNDS_ALWAYS);
}

#[test]
fn interval_every_acknowledged_write_survives_kill_9() {
    run("interval=50ms", ROUNDS_OTHERS);
}

#[test]
fn os_every_acknowledged_write_survives_kill_9() {
    run("os", ROUNDS_OTHERS);
}

#[test]
fn sigterm_loses_nothing_and_ends_with_0() {
    for durability in ["always", "interval=10s", "os"] {
        let dir = DataDir::new();
        let arguments = ["--durability", durability, "--snapshot-interval", "1s"];
        let mut process = Process::start(dir.path(), &arguments);
        let token = process.token();
        let mut writers: Vec<Writer> = (0..WRITERS).map(|index| Writer::new(index, 0)).collect();
        let (acknowledged, acknowledgements) = channel();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let (acknowledged, token) = (acknowledged.clone(), token.as_str());
                let address = process.address;
                scope.spawn(move || writer.write(address, token, &acknowledged));
            }
            drop(acknowledged);
            let (address, token) = (process.address, token.as_str());
            scope.spawn(move || compact(address, token));
            for _ in 0..300 {
                acknowledgements.recv().unwrap();
            }
            process.signal("TERM");
            assert_eq!(process.wait().code(), Some(0), "{durability}");
        });
        let process = Process::start(dir.path(), &arguments);
        let in_order = process
            .log
            .iter()
            .any(|line| line.contains(r#""stopped_in_order":true"#));
        assert!(in_order, "{:?}", process.log);
        let bearer = format!("Bearer {}", process.token());
        let mut client = Client::new(process.address);
        let mut acknowledged = 0;
        for writer in &mut writers {
            // Whatever was carried out was answered before the end.
            let unanswered = writer.check(&mut client, &bearer);
            assert_ne!(unanswered, Unanswered::CarriedOut, "{durability}");
            acknowledged += writer.acknowledged;
        }
        println!("{durability}: {acknowledged} writes acknowledged, 0 lost by SIGTERM");
    }
}
