//! One run of the binary, from its start to its end.
//!
//! What always holds:
//! - a [`Process`] that is handed out has said that it is ready;
//! - its log is read to the end, so that it never waits for a reader;
//! - it is gone, and waited for, when its handle is.

use std::env::consts::EXE_SUFFIX;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a start or a clean stop may take before the test fails.
const WAIT_TIME_MAX: Duration = Duration::from_secs(60);

/// Settings that start fast and still hold a value of 1 MiB: small segments, and limits that fit
/// them.
const SETTINGS: [&str; 6] = [
    "--segment-bytes=4MiB",
    "--max-value-bytes=1536KiB",
    "--max-body-bytes=2MiB",
    "--max-inflight-bytes=64MiB",
    "--max-memory=256MiB",
    "--durability=always",
];

/// A running server.
pub(crate) struct Process {
    child: Child,
    log: Receiver<String>,
    /// What was read of the log, for a test that fails.
    seen: Vec<String>,
    address: SocketAddr,
}

impl Process {
    /// Starts the binary on `listen` and waits until it says that it is ready.
    pub(crate) fn start(listen: &str, data_dir: &Path) -> Self {
        let mut command = Command::new(binary());
        command
            .args(["--listen", listen, "--data-dir"])
            .arg(data_dir)
            .args(SETTINGS);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EKOKV_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Self {
            child,
            log,
            seen: Vec::new(),
            address,
        };
        process.address = process.ready();
        process
    }

    /// The address that the server is bound to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL: nothing is drained, sealed or synced.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the status that the process ends with.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let signal = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &signal]).status().unwrap();
        assert!(sent.success(), "{signal}: {sent}");
        let begin = Instant::now();
        // The end of the log is the end of the process.
        while self.next_line(begin).is_some() {}
        self.child.wait().unwrap()
    }

    fn ready(&mut self) -> SocketAddr {
        let begin = Instant::now();
        loop {
            let Some(line) = self.next_line(begin) else {
                panic!("the server ended before it was ready");
            };
            // What is not JSON is the welcome of a first start.
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            let fields = &event["fields"];
            if fields["message"] == "ready" {
                let address = fields["address"].as_str().expect("`ready` has an address");
                return address.parse().unwrap();
            }
        }
    }

    /// The next line of the log, `None` at its end.
    fn next_line(&mut self, begin: Instant) -> Option<String> {
        let left = WAIT_TIME_MAX.saturating_sub(begin.elapsed());
        match self.log.recv_timeout(left) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no word from the server in {WAIT_TIME_MAX:?}")
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has been waited for before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.seen.extend(self.log.iter());
            eprintln!("log of the server:\n{}", self.seen.join("\n"));
        }
    }
}

/// The lines of `stderr` as they come.
fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Without a receiver the pipe is still to be emptied.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The binary of the profile that this test was built with. Cargo tells its path only to tests of
/// the package that the binary is in.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join(format!("ekokv{EXE_SUFFIX}"));
    assert!(
        binary.is_file(),
        "{} is missing: run `cargo test --workspace`, or `cargo build` first",
        binary.display()
    );
    binary
}
