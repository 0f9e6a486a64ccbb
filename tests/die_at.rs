//! The real binary dies, or sees a call on the disk fail, at its N-th call, for every N that a workload
//! comes to: every acknowledged write is there after the restart. The workload compacts, and so every
//! change that the compactor makes is one to die at: runs and snapshots, their names, and what is removed
//! because of them. Of the others' calls a share is met, with `EKOKV_TEST_LONG=1` each of them.
//!
//! Needs a build that can: `cargo test --features faults --test die_at -- --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::process::Process;
use common::server::DataDir;
use common::{ADMIN_KEY, Client};

const SIGKILL: i32 = 9;
/// Segments have 1 MiB: the log goes on in a second one.
const WRITES: usize = 24;
const VALUE_BYTES: usize = 50_000;
/// What the data dir holds when a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Begin {
    /// Nothing.
    Empty,
    /// A store of two segments whose process was killed.
    Killed,
}

/// What was acknowledged: the text of each key, `None` if it was deleted.
type Acknowledged = BTreeMap<String, Option<String>>;

fn try_token(process: &Process) -> Option<String> {
    let body = format!(r#"{{"api_key":"{ADMIN_KEY}"}}"#);
    let answer = Client::try_new(process.address)
        .and_then(|mut client| client.try_request("POST", "/api/auth/token", &[], body.as_bytes()));
    let answer: serde_json::Value = serde_json::from_slice(&answer.ok()?.body).unwrap();
    Some(format!("Bearer {}", answer["token"].as_str().unwrap()))
}

/// Writes until all is written or the server ends. Compacts in the middle and at the end; what comes of
/// that is judged by what is there later.
fn write(process: &Process, round: &str, acknowledged: &mut Acknowledged) {
    let (Some(bearer), Ok(mut client)) = (try_token(process), Client::try_new(process.address))
    else {
        return;
    };
    let headers = [("Authorization", bearer.as_str())];
    let mut call = |method: &str, target: &str, body: &str| {
        let answer = client.try_request(method, target, &headers, body.as_bytes());
        answer.map_or(0, |answer| answer.status)
    };
    // Whether it is acknowledged; if not, whether it was carried out is unknown.
    let mut change = |key: &str, value: Option<&str>| loop {
        let status = match value {
            Some(value) => call("POST", &format!("/api/kv/set/{key}"), value),
            None => call("DELETE", &format!("/api/kv/delete/{key}"), ""),
        };
        match status {
            200 => {
                acknowledged.insert(key.to_owned(), value.map(ToOwned::to_owned));
                return true;
            }
            // The next segment is not ready; it may be that it cannot be made for now.
            429 if !is_degraded(process) => {}
            _ => {
                acknowledged.remove(key);
                return false;
            }
        }
    };
    for serial in 0..WRITES {
        // Every third one replaces what an earlier round wrote.
        let key = if serial % 3 == 0 {
            format!("k{serial}")
        } else {
            format!("{round}-{serial}")
        };
        let value = format!("\"{round}:{serial}:{}\"", "v".repeat(VALUE_BYTES));
        if !change(&key, Some(&value)) {
            return;
        }
        if serial == WRITES / 2 {
            compact(process, &bearer);
            if !(change("k0", None) && change("k9", None)) {
                return;
            }
        }
    }
    compact(process, &bearer);
}

fn compact(process: &Process, bearer: &str) {
    if let Ok(mut client) = Client::try_new(process.address) {
        let headers = [("Authorization", bearer)];
        let _ = client.try_request("POST", "/api/admin/compact", &headers, b"");
    }
}

fn is_degraded(process: &Process) -> bool {
    let health = Client::try_new(process.address)
        .and_then(|mut client| client.try_request("GET", "/api/health", &[], b""));
    health.map_or(true, |health| health.text().contains("degraded"))
}

/// Starts without a fault; every acknowledged write is there. If `twice` is set, the first process
/// behind the fault is killed as well, at once.
fn check(dir: &Path, acknowledged: &Acknowledged, twice: bool, what: &str) {
    if twice {
        Process::start(dir, &[]).kill();
    }
    let process = Process::start(dir, &[]);
    let bearer = format!("Bearer {}", process.token());
    let mut client = Client::new(process.address);
    for (key, value) in acknowledged {
        let target = format!("/api/kv/get/{key}");
        let answer = client.request("GET", &target, &[("Authorization", bearer.as_str())], b"");
        let found = (answer.status == 200).then(|| answer.text());
        assert!(
            found.is_some() || answer.status == 404,
            "{what}: {key}: {}",
            answer.status
        );
        assert!(found == *value, "{what}: {key} is not as acknowledged");
    }
}

/// A data dir as a run begins with, and what it must hold.
fn begin(begin: Begin, template: &(DataDir, Acknowledged)) -> (DataDir, Acknowledged) {
    let dir = DataDir::new();
    if begin == Begin::Empty {
        return (dir, Acknowledged::new());
    }
    copy(template.0.path(), dir.path());
    (dir, template.1.clone())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn template() -> (DataDir, Acknowledged) {
    let dir = DataDir::new();
    let mut acknowledged = Acknowledged::new();
    let mut process = Process::start(dir.path(), &[]);
    write(&process, "before", &mut acknowledged);
    assert_eq!(acknowledged.len(), WRITES);
    process.kill();
    (dir, acknowledged)
}

/// One run with a fault: how the process ended, and how many writes were compared behind it.
fn run(
    template: &(DataDir, Acknowledged),
    from: Begin,
    (variable, fault): (&str, &str),
    twice: bool,
) -> (ExitStatus, usize) {
    let (dir, mut acknowledged) = begin(from, template);
    let status = match Process::try_start_with(dir.path(), variable, fault) {
        Err((status, _)) => status,
        Ok(mut process) => {
            write(&process, "during", &mut acknowledged);
            // The calls of an orderly stop count as well. It may have ended already.
            process.signal("TERM");
            process.end().0
        }
    };
    check(
        dir.path(),
        &acknowledged,
        twice,
        &format!("{from:?}, {fault}"),
    );
    (status, acknowledged.len())
}

/// Runs faults, each of a kind of call, what happens at it and at every how many-th call it does, until the
/// workload makes no more: until it came to its end with `spared_max` calls in a row, for its calls are not
/// always the same ones. `met` says whether the process ended by the fault, and asserts that it may end so.
/// Prints the counts.
fn at_every_call(
    title: &str,
    variable: &str,
    faults: &[(&str, &str, usize)],
    spared_max: usize,
    met: impl Fn(ExitStatus) -> bool + Sync,
) -> usize {
    let template = template();
    let jobs: Vec<_> = [Begin::Empty, Begin::Killed]
        .into_iter()
        .flat_map(|from| faults.iter().map(move |fault| (from, *fault)))
        .collect();
    let long = std::env::var_os("EKOKV_TEST_LONG").is_some();
    let (next, total, compared) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let lines = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((from, (kind, what, step))) = jobs.get(index) else {
                        return;
                    };
                    let step = if long { 1 } else { *step };
                    let (mut hits, mut spared) = (0, 0);
                    for number in (1 + index % step..).step_by(step) {
                        let fault = format!("{kind}:{number}:{what}");
                        let twice = number / step % 2 == 1;
                        let (status, keys) = run(&template, *from, (variable, &fault), twice);
                        compared.fetch_add(keys, Ordering::Relaxed);
                        if met(status) {
                            (hits, spared) = (hits + 1, 0);
                        } else {
                            spared += step;
                        }
                        if spared >= spared_max {
                            break;
                        }
                    }
                    total.fetch_add(hits, Ordering::Relaxed);
                    lines
                        .lock()
                        .unwrap()
                        .push(format!("{from:?} {kind}:N:{what} {hits} times"));
                }
            });
        }
    });
    for line in lines.into_inner().unwrap() {
        println!("{title}: {line}");
    }
    let total = total.into_inner();
    println!(
        "{title}: {total} in all, {} acknowledged writes compared, 0 lost",
        compared.into_inner()
    );
    total
}

#[test]
fn rows_19_and_28_every_acknowledged_write_survives_death_at_every_call() {
    let mut deaths = 0;
    for (title, faults) in [
        (
            "deaths of the compactor",
            [
                ("change@compactor", "before", 1),
                ("change@compactor", "after", 1),
                ("write@compactor", "half", 1),
            ],
        ),
        (
            "deaths",
            [
                ("change", "before", 5),
                ("change", "after", 5),
                ("write", "half", 3),
            ],
        ),
    ] {
        let died = at_every_call(title, "FAULT_DIE_AT", &faults, 3, |status| {
            let died = status.signal() == Some(SIGKILL);
            assert!(died || status.code() == Some(0), "{status}");
            died
        });
        assert!(died >= 50, "{title}: {died}");
        deaths += died;
    }
    assert!(deaths >= 150, "{deaths}");
}

#[test]
fn rows_34_and_41_every_acknowledged_write_survives_an_error_of_every_call() {
    // EIO once; no space, and then none ever again.
    let faults = [("change", "5", 4), ("change", "28:always", 4)];
    // A spare or a snapshot that could not be made ends nothing, and takes several calls.
    let ends = at_every_call(
        "errors that ended it",
        "FAULT_FAIL_AT",
        &faults,
        30,
        |status| {
            let failed = status.code() == Some(74);
            assert!(failed || status.code() == Some(0), "{status}");
            failed
        },
    );
    assert!(ends >= 30, "{ends}");
}

#[test]
fn a_fault_that_is_not_understood_ends_with_78() {
    for (variable, fault) in [
        ("FAULT_DIE_AT", "sync:1:sometimes"),
        ("FAULT_DIE_AT", "synk:1:before"),
        ("FAULT_FAIL_AT", "sync:x:5"),
        ("FAULT_FAIL_AT", "sync:1:EIO"),
    ] {
        let dir = DataDir::new();
        match Process::try_start_with(dir.path(), variable, fault) {
            Ok(_) => panic!("{variable}={fault} is ignored"),
            Err((status, log)) => {
                assert_eq!(status.code(), Some(78), "{log:?}");
                assert!(log.join("").contains(variable), "{log:?}");
            }
        }
    }
}
