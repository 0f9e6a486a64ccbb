//! What operators and file systems do to the data dir of the real binary: rows 29, 30, 32, 33 and 41 of
//! the failures that ekokv answers for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::Process;
use common::server::DataDir;
use common::tool::ekokv;
use common::{ADMIN_KEY, Client};

/// How long a server may go on before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn path(dir: &DataDir) -> &str {
    dir.path().to_str().unwrap()
}

/// Exit code and log of a start that must not succeed, behind a command of the shell.
fn refused_after(before: &str, binary: &str, data_dir: &str) -> (i32, String) {
    let script = format!("{before} && exec \"$@\"");
    let output = Command::new("unshare")
        .args(["-m", "bash", "-c", &script, "bash", binary])
        .args(["--listen", "127.0.0.1:0", "--data-dir", data_dir])
        .env("EKOKV_ADMIN_KEY", ADMIN_KEY)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code();
    (code.unwrap_or_else(|| panic!("{log}")), log)
}

fn refused(data_dir: &str) -> (i32, String) {
    match Process::try_start(Path::new(data_dir), &[]) {
        Ok(process) => panic!("it started: {:?}", process.log),
        Err((status, log)) => (status.code().unwrap(), log.join("\n")),
    }
}

/// Why this test cannot make mounts of its own, if it cannot.
fn no_mounts() -> Option<String> {
    let probe = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Every file below a directory with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

fn set(client: &mut Client, bearer: &str, key: &str, value: &str) -> Option<u16> {
    let target = format!("/api/kv/set/{key}");
    let answer = client.try_request(
        "POST",
        &target,
        &[("Authorization", bearer)],
        value.as_bytes(),
    );
    answer.ok().map(|answer| answer.status)
}

fn get(process: &Process, key: &str) -> (u16, String) {
    let bearer = format!("Bearer {}", process.token());
    let target = format!("/api/kv/get/{key}");
    let headers = [("Authorization", bearer.as_str())];
    let answer = Client::new(process.address).request("GET", &target, &headers, b"");
    (answer.status, answer.text())
}

/// A store with one key.
fn store_with(key: &str) -> DataDir {
    let dir = DataDir::new();
    let mut process = Process::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", process.token());
    let stored = set(&mut Client::new(process.address), &bearer, key, "1");
    assert_eq!(stored, Some(200));
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    dir
}

/// The same, without a segment of number 2: the run that wrote it left nothing in it.
fn store_with_a_gap(key: &str) -> DataDir {
    let dir = store_with(key);
    for _ in 0..2 {
        let mut process = Process::start(dir.path(), &[]);
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
    }
    let second = dir.path().join("wal/00000000000000000002.wal");
    assert!(!second.exists() && dir.path().join("wal/00000000000000000003.wal").exists());
    dir
}

#[test]
fn row_29_a_second_process_on_a_data_dir_ends_with_75_and_names_the_holder() {
    let dir = DataDir::new();
    let holder = Process::start(dir.path(), &[]);
    let before = contents(dir.path());
    let (code, log) = refused(path(&dir));
    assert_eq!(code, 75, "{log}");
    assert!(log.contains(&format!("process {}", holder.id())), "{log}");
    assert!(log.contains(path(&dir)), "{log}");
    // The lock still names its holder, and nothing else was touched but by it.
    let after = contents(dir.path());
    let lock = dir.path().join("lock");
    assert_eq!(after[&lock], before[&lock]);
}

/// A process that writes until it ends, whose data dir is changed by `change` meanwhile: how it ends,
/// what it logged and how many writes it acknowledged, each to a key of its own.
fn write_while(dir: &DataDir, change: impl FnOnce()) -> (i32, String, u64) {
    let mut process = Process::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", process.token());
    let mut client = Client::new(process.address);
    // Large enough for the log to go on in further segments before the change is noticed.
    let large = format!("\"{}\"", "v".repeat(40_000));
    let mut acknowledged = 0;
    let mut change = Some(change);
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "nothing stops it");
        let value = if acknowledged < 300 { &large } else { "1" };
        match set(&mut client, &bearer, &format!("k{acknowledged}"), value) {
            Some(200) => acknowledged += 1,
            // The next segment is not ready yet.
            Some(429) => {}
            _ => break,
        }
        if acknowledged == 30
            && let Some(change) = change.take()
        {
            change();
        }
    }
    let (status, log) = process.end();
    (status.code().unwrap(), log.join("\n"), acknowledged)
}

#[test]
fn row_30_a_data_dir_that_is_replaced_stops_the_server_and_is_never_written_to() {
    let other = store_with("other");
    let dir = DataDir::new();
    let moved = DataDir::new();
    let (code, log, acknowledged) = write_while(&dir, || {
        fs::rename(dir.path(), moved.path()).unwrap();
        fs::rename(other.path(), dir.path()).unwrap();
    });
    assert_eq!(code, 74, "{log}");
    assert!(log.contains("moved or replaced"), "{log}");

    let process = Process::start(dir.path(), &[]);
    assert_eq!(get(&process, "other").0, 200);
    assert_eq!(get(&process, "k0").0, 404);
    drop(process);

    let process = Process::start(moved.path(), &[]);
    for number in 0..acknowledged {
        assert_eq!(get(&process, &format!("k{number}")).0, 200, "k{number}");
    }
    println!(
        "row 30: {acknowledged} writes acknowledged, all of them in the dir that was moved away"
    );
}

#[test]
fn row_30_a_data_dir_that_is_moved_away_or_whose_lock_is_removed_stops_the_server() {
    let dir = DataDir::new();
    let moved = DataDir::new();
    let (code, log, _) = write_while(&dir, || {
        fs::rename(dir.path(), moved.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
    });
    assert_eq!(code, 74, "{log}");
    assert!(
        contents(dir.path()).is_empty(),
        "{:?}",
        contents(dir.path()).keys()
    );

    let dir = DataDir::new();
    let lock = dir.path().join("lock");
    let (code, log, _) = write_while(&dir, || fs::remove_file(&lock).unwrap());
    assert_eq!(code, 74, "{log}");
    assert!(log.contains("lock removed"), "{log}");
    assert!(!lock.exists());
}

#[test]
fn row_32_a_file_in_place_of_the_data_dir_or_above_it_ends_with_78() {
    let dir = DataDir::new();
    fs::write(dir.path(), "a file").unwrap();
    let below = format!("{}/data", path(&dir));
    for data_dir in [path(&dir), &below] {
        let (code, log) = refused(data_dir);
        assert_eq!(code, 78, "{log}");
        for part in ["no directory", "--data-dir", data_dir] {
            assert!(log.contains(part), "{part}: {log}");
        }
    }
    assert_eq!(fs::read(dir.path()).unwrap(), b"a file");
    fs::remove_file(dir.path()).unwrap();
}

/// How a tool ends that must not wait for anybody; 124 if it does.
fn tool(name: &str, dir: &DataDir) -> (i32, String) {
    let output = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_ekokv"), name, path(dir)])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let code = output.status.code();
    (code.unwrap_or_else(|| panic!("{said}")), said)
}

/// Puts a pipe, which whoever opens it for reading waits on, under a name.
fn make_pipe(at: &Path) {
    let _ = fs::remove_file(at);
    assert!(Command::new("mkfifo").arg(at).status().unwrap().success());
}

#[test]
fn row_32_what_is_no_file_under_the_name_of_one_ends_with_78_at_once() {
    let mut cases = 0;
    for name in [
        "CURRENT",
        "wal/00000000000000000001.wal",
        "wal/00000000000000000099.wal",
    ] {
        for make in [make_pipe, make_dir] {
            let dir = store_with("k");
            make(&dir.path().join(name));
            let (code, log) = refused(path(&dir));
            assert_eq!(code, 78, "{name}: {log}");
            assert!(log.contains(name) && log.contains("move it away"), "{log}");
            let (code, said) = tool("check", &dir);
            assert_eq!(code, 78, "{name}: {said}");
            assert!(
                said.contains(name) && said.contains("move it away"),
                "{said}"
            );
            cases += 1;
        }
    }
    // Nothing needs what is called a snapshot here: the log is all there.
    for make in [make_pipe, make_dir] {
        let dir = store_with("k");
        fs::create_dir_all(dir.path().join("snapshots")).unwrap();
        make(&dir.path().join("snapshots/00000000000000000099.snap"));
        let (code, said) = tool("check", &dir);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("99.snap: DAMAGED"), "{said}");
        let process = Process::start(dir.path(), &[]);
        assert_eq!(get(&process, "k").0, 200);
        cases += 1;
    }
    // A pipe in place of the lock is nobody's.
    let dir = store_with("k");
    make_pipe(&dir.path().join("lock"));
    assert_eq!(tool("dump", &dir).0, 0);
    println!(
        "row 32: {} names with something else than a file",
        cases + 1
    );
}

/// Puts a directory under a name.
fn make_dir(at: &Path) {
    let _ = fs::remove_file(at);
    fs::create_dir(at).unwrap();
}

#[test]
fn row_32_check_refuses_what_a_start_can_neither_read_nor_remove() {
    let mut cases = 0;
    for make in [make_pipe, make_dir] {
        let dir = store_with("k");
        make(&dir.path().join("jwt-secret"));
        let (code, log) = refused(path(&dir));
        assert_eq!(code, 78, "{log}");
        let (check, said) = tool("check", &dir);
        assert_eq!(check, 78, "{said}");
        for text in [log, said] {
            assert!(text.contains("cannot read jwt-secret"), "{text}");
            assert!(text.contains("move it away"), "{text}");
        }
        cases += 1;
    }
    for make in [make_pipe, make_dir] {
        let dir = store_with("k");
        make(&dir.path().join("lock"));
        let (code, log) = refused(path(&dir));
        assert_eq!(code, 78, "{log}");
        assert!(
            log.contains("by its file lock: ") && log.contains("move it away"),
            "{log}"
        );
        let (code, said) = tool("check", &dir);
        assert_eq!(code, 78, "{said}");
        assert!(
            said.contains("lock: IN THE WAY") && said.contains("move it away"),
            "{said}"
        );
        cases += 1;
    }
    // What a start removes: a pipe it does, a directory it cannot.
    for name in [
        "wal/next.tmp",
        "CURRENT.tmp",
        "CURRENT.renewed.tmp",
        "wal/00000000000000000002.wal",
    ] {
        let dir = store_with_a_gap("k");
        make_dir(&dir.path().join(name));
        let (code, said) = tool("check", &dir);
        let (start, log) = refused(path(&dir));
        assert_eq!(start, 78, "{name}: {log}");
        assert!(log.contains(name) && log.contains("move it away"), "{log}");
        assert_eq!(code, 78, "{name}: {said}");
        assert!(said.contains(&format!("{name}: IN THE WAY")), "{said}");
        assert!(!said.contains(&format!("{name}: unfinished")), "{said}");
        assert!(said.contains("move it away"), "{said}");

        let dir = store_with_a_gap("k");
        make_pipe(&dir.path().join(name));
        let (code, said) = tool("check", &dir);
        assert_eq!(code, 0, "{name}: {said}");
        let process = Process::start(dir.path(), &[]);
        assert_eq!(get(&process, "k").0, 200);
        cases += 2;
    }
    println!("row 32: {cases} obstacles");
}

#[test]
fn row_32_a_link_that_leads_nowhere_ends_with_78_and_nothing_is_made() {
    let place = DataDir::new();
    fs::create_dir(place.path()).unwrap();
    let link = place.path().join("link");
    let target = place.path().join("not-there");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let link = link.to_str().unwrap();
    let below = format!("{link}/data");
    let says_so = |code: i32, log: &str| {
        assert_eq!(code, 78, "{log}");
        let said = format!("{link} is a link to a place that is not there");
        assert!(log.contains(&said), "{log}");
    };
    for data_dir in [link, &below] {
        let (code, log) = refused(data_dir);
        says_so(code, &log);
        for tool in ["check", "dump", "wal"] {
            let ran = ekokv(&[tool, data_dir]);
            says_so(ran.code, &ran.log);
        }
    }
    // Nor is it a place for what is saved.
    let store = store_with("k");
    let ran = ekokv(&["salvage", path(&store), link]);
    says_so(ran.code, &ran.log);
    assert!(!target.exists());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    // Once the place is there it serves.
    fs::create_dir(&target).unwrap();
    drop(Process::start(Path::new(link), &[]));
    assert!(target.join("CURRENT").exists());
}

#[test]
fn row_32_a_store_of_another_user_ends_with_78_and_stays_as_it_is() {
    let dir = store_with("k");
    if fs::metadata(dir.path()).unwrap().uid() != 0 {
        println!("row 32: skipped, for only root can give files to another user");
        return;
    }
    for name in ["CURRENT", "lock"] {
        chown(dir.path().join(name), Some(NOBODY), None).unwrap();
    }
    let before = contents(dir.path());
    let (code, log) = refused(path(&dir));
    assert_eq!(code, 78, "{log}");
    for part in ["65534", "runs as 0", "chown"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(contents(dir.path()) == before);
}

#[test]
fn row_32_a_data_dir_that_is_closed_to_the_user_ends_with_78() {
    let dir = store_with("k");
    if fs::metadata(dir.path()).unwrap().uid() != 0 {
        println!("row 32: skipped, for only root can become another user");
        return;
    }
    // A copy that everybody may run.
    let tools = DataDir::new();
    fs::create_dir(tools.path()).unwrap();
    fs::set_permissions(tools.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = tools.path().join("ekokv");
    fs::copy(env!("CARGO_BIN_EXE_ekokv"), &binary).unwrap();
    let before = contents(dir.path());
    let inside = format!("{}/missing", path(&dir));
    // One whose files are open to the user, and in which none can be made.
    let half = store_with("k");
    for file in contents(half.path()).keys() {
        chown(file, Some(NOBODY), None).unwrap();
    }
    chown(half.path().join("wal"), Some(NOBODY), None).unwrap();
    fs::set_permissions(half.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let half_before = contents(half.path());
    for data_dir in [path(&dir), &inside, path(&half)] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(["--listen", "127.0.0.1:0", "--data-dir", data_dir])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{log}");
        assert!(log.contains("65534") && log.contains(data_dir), "{log}");
    }
    assert!(contents(dir.path()) == before);
    assert!(contents(half.path()) == half_before);
}

#[test]
fn row_32_a_read_only_file_system_ends_with_78_and_keeps_every_byte() {
    if let Some(reason) = no_mounts() {
        println!("row 32: read-only mounts are skipped: {reason}");
        return;
    }
    let dir = store_with("k");
    let before = contents(dir.path());
    let here = path(&dir);
    let below = format!("{here}/new/dir");
    let mount = format!("mount --bind {here} {here} && mount -o remount,bind,ro {here}");
    for data_dir in [here, &below] {
        let (code, log) = refused_after(&mount, env!("CARGO_BIN_EXE_ekokv"), data_dir);
        assert_eq!(code, 78, "{log}");
        assert!(log.contains("read-only") && log.contains(data_dir), "{log}");
    }
    assert!(contents(dir.path()) == before);
}

#[test]
fn row_33_a_data_dir_in_memory_is_warned_of() {
    if let Some(reason) = no_mounts() {
        println!("row 33: mounts are skipped: {reason}");
        return;
    }
    let dir = DataDir::new();
    fs::create_dir(dir.path()).unwrap();
    let limit = format!("mount -t tmpfs tmpfs {}", path(&dir));
    let process = Process::start_mounted(dir.path(), &limit);
    let warned = |line: &&String| line.contains("WARN") && line.contains("tmpfs");
    assert!(
        process.log.iter().any(|line| warned(&line)),
        "{:?}",
        process.log
    );
    assert!(contents(dir.path()).is_empty());
}

#[test]
fn row_41_a_limit_on_file_sizes_ends_with_74_and_not_by_its_signal() {
    if let Err(error) = Command::new("prlimit").arg("--version").output() {
        println!("row 41: the limit on file sizes is skipped: prlimit: {error}");
        return;
    }
    let dir = DataDir::new();
    let mut process = Process::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", process.token());
    let mut client = Client::new(process.address);
    let value = format!("\"{}\"", "v".repeat(20_000));
    let mut acknowledged = 0;
    // Within the segment that was allocated, beyond the limit that it has from the third write on.
    while set(&mut client, &bearer, &format!("k{acknowledged}"), &value) == Some(200) {
        acknowledged += 1;
        if acknowledged == 3 {
            let pid = process.id().to_string();
            let limited = Command::new("prlimit")
                .args(["--pid", &pid, "--fsize=200000"])
                .status();
            assert!(limited.unwrap().success());
        }
        assert!(acknowledged < 30, "the limit does nothing");
    }
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(74), "{status}, {log:?}");
    let process = Process::start(dir.path(), &[]);
    for number in 0..acknowledged {
        assert_eq!(get(&process, &format!("k{number}")).0, 200, "k{number}");
    }
}
