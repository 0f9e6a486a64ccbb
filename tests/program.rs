//! The binary as a supervisor and an operator meet it: exit codes, the log, the first session.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use common::Client;
use common::process::Process;
use common::server::DataDir;

/// The binary without any setting of ours in its environment.
fn ekokv(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ekokv"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EKOKV_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn ended(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn usage_errors_end_with_2_and_bad_settings_with_78_all_named_at_once() {
    assert_eq!(ended(&mut ekokv(&["--bogus"])).0, 2);
    assert_eq!(ended(&mut ekokv(&["dance"])).0, 2);
    let (code, log) = ended(
        ekokv(&["serve", "--token-ttl", "1m", "--max-key-bytes", "lots"])
            .env("EKOKV_LISTN", "x")
            .env("EKOKV_ADMIN_KEY", "a-short-secret"),
    );
    assert_eq!(code, 78, "{log}");
    for part in [
        "--token-ttl",
        "--max-key-bytes",
        "EKOKV_LISTN",
        "EKOKV_ADMIN_KEY has",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("a-short-secret"), "{log}");
    // Not on a terminal, the log is one JSON object a line.
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line)
                .unwrap()
                .is_object()
        );
    }
}

#[test]
fn settings_that_cannot_work_together_are_found_before_anything_is_done() {
    let dir = DataDir::new();
    let path = dir.path().to_str().unwrap();
    for sizes in [
        ["--segment-bytes", "1MiB"],
        ["--max-body-bytes", "67000000"],
    ] {
        let arguments = ["--listen", "127.0.0.1:0", "--data-dir", path];
        let (code, log) = ended(ekokv(&arguments).args(sizes).args(["--token-ttl", "1m"]));
        assert_eq!(code, 78, "{log}");
        assert!(log.contains("--segment-bytes"), "{log}");
        assert!(log.contains("--max-body-bytes"), "{log}");
        // With all the others.
        assert!(log.contains("--token-ttl is at least"), "{log}");
        assert!(!dir.path().exists(), "{log}");
    }
}

#[test]
fn a_secret_that_is_too_short_ends_with_78() {
    let dir = DataDir::new();
    let mut process = Process::start(dir.path(), &[]);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    fs::write(dir.path().join("jwt-secret"), "short").unwrap();
    let (status, log) = refused(&dir);
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("jwt-secret"), "{log}");
    assert!(!log.contains("short\""), "{log}");
}

#[test]
fn damage_that_cannot_be_repaired_ends_with_65_and_names_place_and_help() {
    let dir = DataDir::new();
    let mut process = Process::start(dir.path(), &[]);
    let bearer = format!("Bearer {}", process.token());
    let headers = [("Authorization", bearer.as_str())];
    let value = format!("\"{}\"", "v".repeat(60_000));
    for key in 0..2 {
        let target = format!("/api/kv/set/{key}");
        let set = Client::new(process.address).request("POST", &target, &headers, value.as_bytes());
        assert_eq!(set.status, 200, "{set:?}");
    }
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));

    let segment = fs::read_dir(dir.path().join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .min()
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // Within one value: parity rebuilds one cell of it.
    for at in [30_000, 50_000] {
        bytes[at] ^= 0x10;
    }
    fs::write(&segment, &bytes).unwrap();
    let (status, log) = refused(&dir);
    assert_eq!(status.code(), Some(65), "{log}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    for part in [name, "offset", "ekokv wal"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(fs::read(&segment).unwrap(), bytes, "it was changed");
}

/// How a start on this data dir ends, which must not succeed, and its log.
fn refused(dir: &DataDir) -> (ExitStatus, String) {
    match Process::try_start(dir.path(), &[]) {
        Ok(process) => panic!("it started: {:?}", process.log),
        Err((status, log)) => (status, log.join("\n")),
    }
}

#[test]
fn a_taken_address_or_data_dir_ends_with_75() {
    let dir = DataDir::new();
    let path = dir.path().to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, log) = ended(&mut ekokv(&["--listen", &address, "--data-dir", path]));
    assert_eq!(code, 75, "{log}");
    assert!(log.contains(&address), "{log}");

    let _holder = Process::start(dir.path(), &[]);
    let (code, log) = ended(&mut ekokv(&["--listen", "127.0.0.1:0", "--data-dir", path]));
    assert_eq!(code, 75, "{log}");
}

#[test]
fn a_signal_to_stop_ends_with_0() {
    let dir = DataDir::new();
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(dir.path(), &[]);
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0), "{signal}");
    }
}

/// A process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_start_shows_an_admin_key_once_with_lines_that_work_when_pasted() {
    let dir = DataDir::new();
    let path = dir.path().to_str().unwrap();
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        path,
        "--segment-bytes",
        "64MiB",
    ];
    let mut first = Guard(ekokv(&arguments).stderr(Stdio::piped()).spawn().unwrap());
    let stderr = BufReader::new(first.0.stderr.take().unwrap());
    let mut shown = Vec::new();
    for line in stderr.lines() {
        let line = line.unwrap();
        let is_last = line.contains("/api/kv/get/hello");
        shown.push(line);
        if is_last {
            break;
        }
    }
    let key = fs::read_to_string(dir.path().join("admin-key")).unwrap();
    let key = key.trim();
    assert!(key.chars().count() >= 32, "{key}");
    assert!(shown.iter().any(|line| line.trim() == key), "{shown:#?}");
    for line in shown.iter().filter(|line| line.starts_with('{')) {
        assert!(!line.contains(key), "the log holds the key: {line}");
    }

    let session: Vec<&str> = shown
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("TOKEN=") || line.starts_with("curl "))
        .collect();
    assert_eq!(session.len(), 3, "{shown:#?}");
    let pasted = Command::new("sh")
        .arg("-c")
        .arg(session.join("\n"))
        .output()
        .unwrap();
    let printed = String::from_utf8(pasted.stdout).unwrap();
    assert_eq!(
        printed, r#"{"value":"world"}{"value":"world"}"#,
        "{session:#?}"
    );

    // By now nobody reads the log any more, which is no reason to fail.
    let stopped = Command::new("kill")
        .args(["-s", "TERM", &first.0.id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    assert_eq!(first.0.wait().unwrap().code(), Some(0));

    // The second start says nothing of it.
    let mut second = Guard(ekokv(&arguments).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(second.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("\"ready\"") {
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
    }
    second.0.kill().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(!said.contains(key) && !said.contains("admin key"), "{said}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end() {
    let dir = DataDir::new();
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        dir.path().to_str().unwrap(),
    ];
    let mut server = Guard(ekokv(&arguments).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0);
        if line.contains("\"ready\"") {
            let said: serde_json::Value = serde_json::from_str(&line).unwrap();
            break said["fields"]["address"].as_str().unwrap().parse().unwrap();
        }
    };
    // Each is a line of the log, of a few hundred bytes: together far more than a pipe holds.
    let mut client = Client::new(address);
    for _ in 0..2_000 {
        let answer = client.request("POST", "/api/auth/token", &[], br#"{"api_key":"wrong"}"#);
        assert_eq!(answer.status, 401);
    }
    assert_eq!(client.request("GET", "/livez", &[], b"").status, 200);
    let stopped = Command::new("kill")
        .args(["-s", "TERM", &server.0.id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    // It was more than that: most of it never left.
    assert!(rest.lines().count() < 1_000, "{}", rest.lines().count());
}

#[test]
fn keys_that_are_longer_than_a_limit_which_was_lowered_can_be_read_and_deleted() {
    let dir = DataDir::new();
    let key = "k".repeat(100);
    let keys = format!(r#"{{"keys":["{key}"],"values":[1]}}"#);
    let batch = |process: &Process, call: &str, body: &str| {
        let authorization = format!("Bearer {}", process.token());
        let headers = [("Authorization", authorization.as_str())];
        let path = format!("/api/kv/batch/{call}");
        Client::new(process.address)
            .request("POST", &path, &headers, body.as_bytes())
            .text()
    };
    let mut process = Process::start(dir.path(), &[]);
    assert_eq!(
        batch(&process, "set", &keys),
        format!(r#"[["{key}",true]]"#)
    );
    process.kill();

    let process = Process::start(dir.path(), &["--max-key-bytes", "10"]);
    assert_eq!(
        batch(&process, "set", &keys),
        format!(r#"[["{key}",false]]"#)
    );
    let keys = format!(r#"{{"keys":["{key}"]}}"#);
    assert_eq!(batch(&process, "get", &keys), r#"[{"value":1}]"#);
    for was_there in [true, false] {
        let outcome = format!(r#"[["{key}",{was_there}]]"#);
        assert_eq!(batch(&process, "delete", &keys), outcome);
    }
    assert_eq!(batch(&process, "get", &keys), "[{}]");
}
