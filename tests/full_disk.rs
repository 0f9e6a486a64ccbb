//! T8, rows 36 to 38 and 41: the real binary on a disk that is full, and behind a limit on file sizes. It
//! refuses what grows (507), goes on with reads and deletes, gives space back by itself, and loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::Client;
use common::process::Process;
use common::server::DataDir;

/// The disk's size: two dozen segments.
const DISK_BYTES: u64 = 24 << 20;
const VALUE_BYTES: usize = 20_000;
/// What happens by itself happens within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small disk of its own, for as long as this lives.
struct SmallDisk(DataDir);

impl SmallDisk {
    /// `None`, and a word, where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = DataDir::new();
        fs::create_dir(dir.path()).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            other => {
                println!("T8: the small disk is skipped, for it cannot be mounted: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The data dir lies beside whatever else is on the disk.
    fn data_dir(&self) -> std::path::PathBuf {
        self.path().join("data")
    }

    fn snapshots(&self) -> usize {
        let entries = fs::read_dir(self.data_dir().join("snapshots")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().ends_with(".snap"))
            .count()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is ending may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A server, one who uses it, and what it has acknowledged.
struct Session {
    process: Process,
    client: Client,
    bearer: String,
    kept: BTreeMap<String, String>,
    serial: usize,
    /// How often each status was the answer to a set.
    sets: BTreeMap<u16, usize>,
    deletes: BTreeMap<u16, usize>,
}

impl Session {
    fn start(dir: &Path) -> Self {
        Self::of(Process::start(dir, &[]))
    }

    fn of(process: Process) -> Self {
        Self {
            client: Client::new(process.address),
            bearer: format!("Bearer {}", process.token()),
            process,
            kept: BTreeMap::new(),
            serial: 0,
            sets: BTreeMap::new(),
            deletes: BTreeMap::new(),
        }
    }

    /// Goes on with another process on the same data.
    fn restart(&mut self, dir: &Path) {
        let Self { process, .. } = Self::start(dir);
        self.client = Client::new(process.address);
        self.bearer = format!("Bearer {}", process.token());
        self.process = process;
    }

    fn call(&mut self, method: &str, target: &str, body: &str) -> (u16, String) {
        let headers = [("Authorization", self.bearer.as_str())];
        let answer = self
            .client
            .request(method, target, &headers, body.as_bytes());
        (answer.status, answer.text())
    }

    /// Sets another key; `false` if the disk is full.
    fn set(&mut self) -> bool {
        let key = format!("k{}", self.serial);
        let value = format!("\"{key}:{}\"", "v".repeat(VALUE_BYTES));
        loop {
            let (status, answer) = self.call("POST", &format!("/api/kv/set/{key}"), &value);
            *self.sets.entry(status).or_default() += 1;
            match status {
                200 => {
                    self.serial += 1;
                    self.kept.insert(key, value);
                    return true;
                }
                507 => {
                    assert!(missing(&answer) > 0, "{answer}");
                    return false;
                }
                // The next segment is not ready yet.
                429 => {}
                other => panic!("{key}: {other} {answer}"),
            }
        }
    }

    fn delete(&mut self, key: &str) {
        loop {
            let (status, answer) = self.call("DELETE", &format!("/api/kv/delete/{key}"), "");
            *self.deletes.entry(status).or_default() += 1;
            match status {
                200 => break,
                429 => {}
                other => panic!("deleting {key}: {other} {answer}"),
            }
        }
        self.kept.remove(key);
    }

    fn compact(&mut self) -> (u16, String) {
        self.call("POST", "/api/admin/compact", "")
    }

    /// Sets keys until not even a compaction makes room for another one.
    fn fill(&mut self) -> usize {
        let before = self.kept.len();
        loop {
            while self.set() {}
            let (status, answer) = self.compact();
            assert_eq!(status, 200, "{answer}\n{}", self.process.said());
            if !self.set() {
                return self.kept.len() - before;
            }
        }
    }

    /// Deletes keys, all but every so many-th.
    fn thin_out(&mut self, every: usize) -> usize {
        let keys: Vec<String> = self.kept.keys().cloned().collect();
        let goes = |(index, _): &(usize, &String)| index % every != 0;
        let before = self.kept.len();
        for (_, key) in keys.iter().enumerate().filter(goes) {
            self.delete(key);
        }
        before - self.kept.len()
    }

    /// Waits until a key can be set again. Nobody asks for anything else meanwhile.
    fn wait_for_room(&mut self) {
        let started = Instant::now();
        while !self.set() {
            assert!(started.elapsed() < PATIENCE, "no room comes back");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn health(&mut self) -> String {
        self.call("GET", "/api/health", "").1
    }

    fn wait_for_health(&mut self) {
        let started = Instant::now();
        while self.health().contains("degraded") {
            assert!(started.elapsed() < PATIENCE, "{}", self.health());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that was acknowledged is there, and nothing that was deleted.
    fn check(&mut self) {
        let (status, found) = self.call("POST", "/api/kv/find", r#"{"keys_only": true}"#);
        assert_eq!(status, 200);
        let found: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap();
        let found: Vec<&str> = found.iter().map(|r| r["key"].as_str().unwrap()).collect();
        let kept: Vec<&str> = self.kept.keys().map(String::as_str).collect();
        assert_eq!(found, kept);
        for (key, value) in self.kept.clone() {
            let (status, text) = self.call("GET", &format!("/api/kv/get/{key}"), "");
            assert_eq!(status, 200, "{key}");
            assert!(text == value, "{key} holds another value");
        }
    }
}

/// The bytes that a refusal says are missing.
fn missing(answer: &str) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["error"], "disk_full", "{answer}");
    let message = answer["message"].as_str().unwrap();
    let rest = message.split("the disk is full: ").nth(1).unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Others take all space to the last byte.
fn squeeze(path: &Path) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    // The write that is too much leaves all that fits.
    while file.write_all(&[7; 4096]).is_ok() {}
}

fn keys(session: &Session, count: usize) -> Vec<String> {
    session.kept.keys().take(count).cloned().collect()
}

/// Snapshots and runs that are not finished.
fn leftovers(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("snapshots")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".tmp"))
        .collect()
}

#[test]
fn rows_36_to_38_a_full_disk_refuses_growth_and_serving_resumes_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let dir = disk.data_dir();
    let mut session = Session::start(&dir);
    for _ in 0..2 {
        for _ in 0..10 {
            assert!(session.set());
        }
        assert_eq!(session.compact().0, 200);
    }
    assert_eq!(disk.snapshots(), 2);

    let filled = session.fill();
    println!("T8: {filled} sets of {VALUE_BYTES} bytes fill a disk of {DISK_BYTES}");
    // A third of the disk is data, a third the next snapshot.
    assert!((filled * VALUE_BYTES) as u64 > DISK_BYTES / 3, "{filled}");
    assert_eq!(disk.snapshots(), 1, "the older generation is given up");
    session.check();
    let deleted = session.thin_out(10);
    session.wait_for_room();
    session.check();
    let refilled = session.fill();
    println!("T8: {deleted} deletes while it is full, then {refilled} sets fill it again");
    assert!(refilled >= deleted * 9 / 10, "{refilled} of {deleted}");

    // Dies and starts while it is full, over and over, each time with a change.
    for _ in 0..6 {
        session.process.kill();
        session.restart(&dir);
        let key = session.kept.keys().next().unwrap().clone();
        session.delete(&key);
    }
    session.check();
    println!(
        "T8: answers to sets {:?}, to deletes {:?}, 6 kills while it is full, {} keys compared, 0 lost",
        session.sets,
        session.deletes,
        session.kept.len()
    );
    session.thin_out(2);
    session.wait_for_room();
    session.wait_for_health();
    session.process.signal("TERM");
    assert_eq!(session.process.end().0.code(), Some(0));
    session.restart(&dir);
    session.check();
}

#[test]
fn row_37_space_that_others_took_is_waited_for_while_deletes_go_on() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let dir = disk.data_dir();
    let mut session = Session::start(&dir);
    for round in 0..3 {
        for _ in 0..60 {
            assert!(session.set(), "{round}");
        }
        assert_eq!(session.compact().0, 200);
    }
    assert_eq!(disk.snapshots(), 2);
    let foreign = disk.path().join("foreign");
    squeeze(&foreign);
    let started = Instant::now();
    while session.set() {
        assert!(started.elapsed() < PATIENCE, "it fits without end");
    }
    session.check();
    assert!(session.health().contains("degraded"));
    let deleted = session.thin_out(2);
    session.check();
    // The older generation goes first, which makes room enough.
    let (status, answer) = session.compact();
    assert_eq!(status, 200, "{answer}\n{}", session.process.said());
    assert_eq!(disk.snapshots(), 1);
    // Now there is none to give up.
    squeeze(&foreign);
    for key in keys(&session, 20) {
        session.delete(&key);
    }
    let (status, answer) = session.compact();
    assert_eq!(status, 507, "{answer}");
    assert!(answer.contains("disk_full"), "{answer}");
    assert!(!session.set());
    assert!(session.health().contains("degraded"));
    assert_eq!(leftovers(&dir), Vec::<String>::new());
    session.check();
    fs::remove_file(&foreign).unwrap();
    session.wait_for_room();
    session.wait_for_health();
    let (status, answer) = session.compact();
    assert_eq!(status, 200, "{answer}");
    session.check();

    // A start needs a segment; what it cannot do it leaves for the next one.
    squeeze(&foreign);
    session.process.kill();
    match Process::try_start(&dir, &[]) {
        Ok(_) => panic!("it started without a byte of space"),
        Err((status, log)) => {
            assert_eq!(status.code(), Some(74), "{log:?}");
            assert!(log.join("").contains("No space left"), "{log:?}");
        }
    }
    fs::remove_file(&foreign).unwrap();
    session.restart(&dir);
    session.check();
    assert!(session.set());
    println!(
        "T8: others took all space: {deleted} deletes meanwhile, answers to sets {:?}, to deletes {:?}, \
         {} keys compared, 0 lost",
        session.sets,
        session.deletes,
        session.kept.len()
    );
}

#[test]
fn row_41_a_snapshot_that_the_limit_on_file_sizes_forbids_is_tried_again() {
    let dir = DataDir::new();
    // In blocks of 1 KiB: a segment has one MiB.
    let mut session = Session::of(Process::start_limited(dir.path(), "ulimit -f 2048"));
    for _ in 0..50 {
        assert!(session.set());
    }
    assert_eq!(session.compact().0, 200);
    for _ in 0..100 {
        assert!(session.set());
    }
    // 3 MB do not fit into one file, and the log has them all.
    let (status, answer) = session.compact();
    assert_eq!(status, 500, "{answer}");
    assert!(answer.contains("not_compacted"), "{answer}");
    assert!(session.health().contains("degraded"));
    for _ in 0..50 {
        assert!(session.set());
    }
    session.check();
    session.process.kill();
    session.restart(dir.path());
    session.check();
    session.process.kill();
    let limited = Process::start_limited(dir.path(), "ulimit -f 2048");
    session.client = Client::new(limited.address);
    session.process = limited;
    assert_eq!(session.compact().0, 500);
    session.thin_out(4);
    // By itself.
    session.wait_for_health();
    session.check();
    println!(
        "T8: limit on file sizes: answers to sets {:?}, to deletes {:?}, {} keys compared, 0 lost",
        session.sets,
        session.deletes,
        session.kept.len()
    );
}
