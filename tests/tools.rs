//! `check`, `dump`, `wal` and `torture` of the real binary: what they say, how they end, and that they
//! change nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use common::process::Process;
use common::server::DataDir;
use common::tool::{Ran, Session, ekokv, files, names, put_back, two_generations};

fn path(dir: &DataDir) -> &str {
    dir.path().to_str().unwrap()
}

/// The store of all these tests: made once a test, damaged in memory, put back on disk.
struct Subject {
    dir: DataDir,
    whole: BTreeMap<String, Vec<u8>>,
}

impl Subject {
    fn new() -> Self {
        let dir = DataDir::new();
        two_generations(dir.path());
        let whole = files(dir.path());
        Self { dir, whole }
    }

    /// Puts the store back with a change to its files.
    fn with(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        let mut files = self.whole.clone();
        change(&mut files);
        put_back(self.dir.path(), &files);
    }

    fn run(&self, tool: &str) -> Ran {
        ekokv(&[tool, path(&self.dir)])
    }

    fn snapshot(&self, newest: bool) -> String {
        let names = names(&self.whole, ".snap");
        assert_eq!(names.len(), 2);
        names[usize::from(newest)].clone()
    }

    fn newest_segment(&self) -> String {
        names(&self.whole, ".wal").pop().unwrap()
    }
}

/// Zeroes what parity cannot rebuild.
fn zero_blocks(bytes: &mut [u8], at: usize, blocks: usize) {
    bytes[at..at + blocks * 4096].fill(0);
}

#[test]
fn looking_changes_nothing_whatever_is_found() {
    let subject = Subject::new();
    let newest = subject.newest_segment();
    let snapshots = [subject.snapshot(false), subject.snapshot(true)];
    type Change<'a> = Box<dyn Fn(&mut BTreeMap<String, Vec<u8>>) + 'a>;
    let changes: Vec<(&str, Change)> = vec![
        ("whole", Box::new(|_| {})),
        (
            "without a lock",
            Box::new(|files| drop(files.remove("lock"))),
        ),
        (
            "without CURRENT",
            Box::new(|files| drop(files.remove("CURRENT"))),
        ),
        (
            "a hole in the log",
            Box::new(|files| zero_blocks(files.get_mut(&newest).unwrap(), 4096 * 3, 2)),
        ),
        (
            "both snapshots",
            Box::new(|files| {
                for snapshot in &snapshots {
                    files.get_mut(snapshot).unwrap()[5_000] ^= 1;
                }
            }),
        ),
        (
            "unfinished files",
            Box::new(|files| {
                files.insert("snapshots/1.tmp".to_owned(), vec![1]);
                files.insert("CURRENT.tmp".to_owned(), vec![2]);
            }),
        ),
    ];
    let mut runs = 0;
    for (name, change) in &changes {
        subject.with(change);
        let before = files(subject.dir.path());
        for tool in ["check", "dump", "wal"] {
            subject.run(tool);
            assert!(files(subject.dir.path()) == before, "{tool}, {name}");
            runs += 1;
        }
    }
    println!("{runs} runs, no file changed");
}

#[test]
fn check_gives_a_verdict_on_each_file() {
    let subject = Subject::new();
    let ran = subject.run("check");
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut judged = 0;
    for name in subject.whole.keys() {
        // The admin key was given, so none is kept; `lock` has no content that could be wrong.
        if name.ends_with('/') || name == "lock" {
            continue;
        }
        let lines = ran
            .out
            .lines()
            .filter(|line| line.starts_with(&format!("{name}: ")));
        assert_eq!(lines.count(), 1, "{name}: {}", ran.out);
        judged += 1;
    }
    let newest = format!(
        "{}: whole, newest: a start reads it",
        subject.snapshot(true)
    );
    let older = format!("{}: whole, older: to fall back on", subject.snapshot(false));
    let from = format!(
        "verdict: a start works, from {}; all files are whole",
        subject.snapshot(true)
    );
    for part in [
        newest.as_str(),
        older.as_str(),
        "covered by a snapshot: a start does not read it",
        "jwt-secret: there, mode 0600",
        "admin-key: not there",
        // 120 and 21 and 20, without 10 and 1.
        "state: 150 keys, 0 remembered, 1 links, 1 API keys",
        "stopped in order",
        from.as_str(),
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    println!("{judged} files judged");
}

#[test]
fn check_ends_as_a_start_would_and_says_where_the_damage_is() {
    let subject = Subject::new();
    let newest = subject.newest_segment();
    let covered = names(&subject.whole, ".wal").remove(0);
    assert_ne!(covered, newest);

    let damaged = |file: &str, at: usize, blocks: usize| {
        subject.with(|files| zero_blocks(files.get_mut(file).unwrap(), at, blocks));
        let ran = subject.run("check");
        let line = ran.out.lines().find(|line| line.starts_with(file)).unwrap();
        assert!(line.contains("DAMAGED"), "{line}");
        (ran.code, line.to_owned(), ran.out)
    };
    // What a start does not need is told, and is no failure.
    let (code, line, out) = damaged(&covered, 4096 * 2, 2);
    assert_eq!(code, 0, "{out}");
    assert!(line.contains("offset 8192"), "{line}");
    assert!(
        out.contains("it does not need the damaged files (1)"),
        "{out}"
    );
    let (code, _, out) = damaged(&subject.snapshot(false), 4096, 1);
    assert_eq!(code, 0, "{out}");
    let (code, _, out) = damaged(&subject.snapshot(true), 4096, 1);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains(&format!("from {}", subject.snapshot(false))),
        "{out}"
    );
    // What it needs.
    let (code, line, out) = damaged(&newest, 4096 * 3, 2);
    assert_eq!(code, 65, "{out}");
    assert!(line.contains("newest, offset 12288"), "{line}");
    assert!(
        out.contains("a start is refused (65)") && out.contains("ekokv salvage"),
        "{out}"
    );
    // One cell is rebuilt.
    subject.with(|files| files.get_mut(&newest).unwrap()[4096 * 3 + 9] ^= 1);
    let ran = subject.run("check");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("rebuilt in memory: offset 12288"),
        "{}",
        ran.out
    );
    // Files that are gone.
    for file in ["CURRENT", newest.as_str()] {
        subject.with(|files| drop(files.remove(file)));
        let ran = subject.run("check");
        assert_eq!(ran.code, 65, "{ran:?}");
        assert!(ran.out.contains(file) && ran.log.contains(file), "{ran:?}");
    }
    // A secret that a start would not take, and one that others can read.
    subject.with(|files| drop(files.insert("jwt-secret".to_owned(), b"short".to_vec())));
    fs::set_permissions(
        subject.dir.path().join("jwt-secret"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let ran = subject.run("check");
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.out.contains("mode 0644: others"), "{ran:?}");
    // Nothing there.
    let empty = DataDir::new();
    fs::create_dir_all(empty.path()).unwrap();
    let new = DataDir::new();
    for arguments in [
        &["check", path(&empty)][..],
        &["dump", path(&empty)],
        &["wal", path(&empty)],
        &["salvage", path(&empty), path(&new)],
    ] {
        let ran = ekokv(arguments);
        assert_eq!(ran.code, 78, "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        let said = format!("{} holds no store", path(&empty));
        assert!(ran.log.contains(&said), "{ran:?}");
    }
    assert_eq!(files(empty.path()).len(), 0);
}

#[test]
fn check_of_a_data_dir_that_is_served_says_so_and_finds_no_damage() {
    const CHECKS: usize = 12;
    let dir = DataDir::new();
    let process = Process::start(dir.path(), &[]);
    Session::new(&process).set("first", "1");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let mut session = Session::new(&process);
        scope.spawn(move || {
            let value = common::tool::long_value("x");
            let mut index = 0;
            while !done.load(Ordering::Relaxed) {
                session.set(&format!("k:{}", index % 50), &value);
                if index % 40 == 0 {
                    session.compact();
                }
                index += 1;
            }
        });
        let checks: Vec<Ran> = (0..CHECKS).map(|_| ekokv(&["check", path(&dir)])).collect();
        done.store(true, Ordering::Relaxed);
        for ran in checks {
            assert_eq!(ran.code, 0, "{ran:?}");
            let holder = format!("process {} has the data dir open", process.id());
            assert!(ran.out.starts_with(&holder), "{}", ran.out);
        }
    });
    println!("{CHECKS} checks under a writer, each without a finding");
}

#[test]
fn dump_prints_each_key_on_a_line_of_its_own_before_and_after_a_compaction() {
    let dir = DataDir::new();
    let mut process = Process::start(dir.path(), &[]);
    let mut session = Session::new(&process);
    session.set("plain", "29.990");
    session.set("lines", "{\"a\":\n [1,\r\n\t2]}");
    session.set("sdk", r#"{"value": {"b": true}}"#);
    session.set("linked", "null");
    session.call(
        "POST",
        "/api/kv/linked/links/users/7",
        r#"{"metadata": {"x":1}}"#,
    );
    session.call("POST", "/api/kv/linked/links/users/8", "");
    session.call(
        "POST",
        "/api/kv/set/late?ttl=2099-01-01T00:00:00Z",
        "\"soon\"",
    );
    session.call("POST", "/api/kv/set/gone?ttl=1ms", "\"secret\"");
    session.set("quote%22%0A", "\"\\n\"");
    session.set("deleted", "1");
    session.call("DELETE", "/api/kv/delete/deleted", "");
    drop(session);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    let before = ekokv(&["dump", path(&dir)]);
    assert_eq!(before.code, 0, "{before:?}");
    assert!(
        !before.out.contains("secret") && before.log.contains("\"keys\":6"),
        "{before:?}"
    );

    let times = plain(&before.out);
    let expected = concat!(
        r#"{"key":"gone","expires_at":"T","expired":true}"#,
        "\n",
        r#"{"key":"late","value":"soon","version":N,"expires_at":"T"}"#,
        "\n",
        r#"{"key":"lines","value":{"a":  [1,  "#,
        "\t",
        r#"2]},"version":N}"#,
        "\n",
        r#"{"key":"linked","value":null,"version":N,"links":[{"collection":"users","record_id":"7","#,
        r#""metadata":{"x":1},"created_at":"T"},{"collection":"users","record_id":"8","#,
        r#""metadata":{},"created_at":"T"}]}"#,
        "\n",
        r#"{"key":"plain","value":29.990,"version":N}"#,
        "\n",
        r#"{"key":"quote\"\n","value":"\n","version":N}"#,
        "\n",
        r#"{"key":"sdk","value":{"b": true},"version":N,"form":"envelope"}"#,
        "\n",
    );
    assert_eq!(times, expected);

    let mut process = Process::start(dir.path(), &[]);
    Session::new(&process).compact();
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    assert_eq!(ekokv(&["dump", path(&dir)]).out, before.out);
}

#[test]
fn torture_that_is_stopped_leaves_neither_files_nor_servers() {
    let dir = DataDir::new();
    fs::create_dir_all(dir.path()).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_ekokv"))
        .args(["torture", path(&dir), "--kills", "1000"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.contains("1000 kills below"), "{line}");
    let pid = child.id().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-s", "TERM", &pid])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(74));
    assert_eq!(files(dir.path()).len(), 0, "something is left");
    // A server that lived on would hold its lock on a path below.
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let mut servers = lines.filter(|line| {
        let line = String::from_utf8_lossy(line);
        line.contains(path(&dir)) && line.contains("serve")
    });
    assert!(servers.next().is_none(), "a server is left");
}

/// The text with its times as `T` and its versions as `N`.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("_at\":\"") {
        let (head, tail) = rest.split_at(at + 6);
        out.push_str(head);
        out.push('T');
        rest = &tail[tail.find('"').unwrap()..];
    }
    out.push_str(rest);
    let mut parts = out.split("\"version\":");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push_str("\"version\":N");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

#[test]
fn wal_begins_where_the_log_still_is_and_prints_what_lies_before_damage() {
    let subject = Subject::new();
    let ran = subject.run("wal");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("begins behind segment "), "{}", ran.out);
    // The log between the two snapshots is there, and all behind the newer one.
    for part in ["put \"b:019\"", "put \"c:019\"", "delete \"a:002\""] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let newest = subject.newest_segment();
    let offset = batch_of(&ran.out, &newest, "c:010");
    subject.with(|files| zero_blocks(files.get_mut(&newest).unwrap(), offset, 2));
    let ran = subject.run("wal");
    assert_eq!(ran.code, 65, "{ran:?}");
    assert!(ran.out.contains("put \"c:009\""), "{}", ran.out);
    assert!(!ran.out.contains("put \"c:010\""), "{}", ran.out);
    assert!(
        ran.log.contains(&format!("{newest} at offset {offset}")),
        "{}",
        ran.log
    );
}

#[test]
fn a_torn_end_is_called_what_it_is_in_each_mode() {
    let unsure = "not known to be synced";
    let mut cases = 0;
    for mode in ["always", "interval=1h", "os"] {
        let dir = DataDir::new();
        let mut process = Process::start(dir.path(), &["--durability", mode]);
        let mut session = Session::new(&process);
        for index in 0..10 {
            session.set(&format!("k{index}"), &common::tool::long_value("torn"));
        }
        drop(session);
        process.kill();
        let mut torn = files(dir.path());
        let newest = names(&torn, ".wal").pop().unwrap();
        let text = ekokv(&["wal", path(&dir)]).out;
        let bytes = torn.get_mut(&newest).unwrap();
        // In `always` a later batch proves each but the last one; in the others one in the middle can go.
        if mode == "always" {
            let offset = batch_of(&text, &newest, "k9");
            bytes[offset + 1024..].fill(0);
        } else {
            let offset = batch_of(&text, &newest, "k4");
            zero_blocks(bytes, offset, 1);
        }
        put_back(dir.path(), &torn);

        let says_so = |out: &str| {
            assert!(out.contains("torn, "), "{mode}: {out}");
            let never = out.contains("never acknowledged");
            assert_eq!(never, mode == "always", "{mode}: {out}");
            assert_eq!(out.contains(unsure), mode != "always", "{mode}: {out}");
        };
        let new = DataDir::new();
        for arguments in [
            &["check", path(&dir)][..],
            &["wal", path(&dir)],
            &["salvage", path(&dir), path(&new)],
        ] {
            let ran = ekokv(arguments);
            assert_eq!(ran.code, 0, "{mode}: {ran:?}");
            says_so(&ran.out);
            let nothing = ["; all files are whole\n", "nothing was lost\n"];
            let promises = nothing.iter().any(|said| ran.out.contains(said));
            assert_eq!(
                promises,
                mode == "always" && arguments[0] != "wal",
                "{ran:?}"
            );
        }
        let process = Process::start(dir.path(), &["--durability", mode]);
        let told = |text: &str| process.log.iter().any(|line| line.contains(text));
        assert_eq!(
            told("nobody was told of"),
            mode == "always",
            "{:?}",
            process.log
        );
        assert_eq!(told(unsure), mode != "always", "{:?}", process.log);
        cases += 1;
    }
    println!("{cases} modes");
}

/// The offset of the batch in a segment that sets a key, as `ekokv wal` prints it.
fn batch_of(text: &str, segment: &str, key: &str) -> usize {
    let put = text.find(&format!("put {key:?}")).unwrap();
    let head = text[..put].rfind(segment).unwrap();
    text[head..].split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn torture_kills_and_damages_and_finds_nothing_lost_here() {
    let dir = DataDir::new();
    fs::create_dir_all(dir.path()).unwrap();
    let ran = ekokv(&["torture", path(&dir), "--kills", "6", "--seed", "11"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    print!("{}", ran.out);
    for part in [
        "seed 11",
        "kills: 6 (",
        " 0 lost",
        "bit flipped",
        "nothing was lost",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    // Each row of the table ends with the silent cases.
    let rows: Vec<Vec<u32>> = ran
        .out
        .lines()
        .filter_map(|line| {
            let numbers: Vec<u32> = line
                .split_whitespace()
                .rev()
                .map_while(|w| w.parse().ok())
                .collect();
            (numbers.len() == 4).then_some(numbers)
        })
        .collect();
    assert_eq!(rows.len(), 5, "{}", ran.out);
    assert!(rows.iter().all(|row| row[0] == 0), "{}", ran.out);
    assert_eq!(rows.iter().flatten().sum::<u32>(), 48, "{}", ran.out);
    assert!(
        rows.iter().map(|row| row[1]).sum::<u32>() > 0,
        "none was refused: {}",
        ran.out
    );
    assert_eq!(files(dir.path()).len(), 0, "something is left");

    fs::write(dir.path().join("CURRENT"), "x").unwrap();
    assert_eq!(ekokv(&["torture", path(&dir), "--kills", "1"]).code, 78);
}
