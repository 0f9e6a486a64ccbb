//! The real binary as a process of its own, to be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

use super::{ADMIN_KEY, Client};

/// How long a start or an end may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Segments of 1 MiB, and bodies that fit them.
const SMALL: [&str; 8] = [
    "--segment-bytes",
    "1MiB",
    "--max-value-bytes",
    "64KiB",
    "--max-body-bytes",
    "128KiB",
    "--max-batch-keys",
    "100",
];

/// A running `ekokv`.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Every line it logged before it was ready.
    pub(crate) log: Vec<String>,
    later: mpsc::Receiver<String>,
}

impl Process {
    /// Starts the binary on a data dir, with small segments so that they rotate often, and waits for
    /// its word that it is ready.
    pub(crate) fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::start_as_is(data_dir, &[&SMALL, arguments].concat())
    }

    /// The same behind a command of the shell, such as one that sets a limit.
    pub(crate) fn start_limited(data_dir: &Path, limit: &str) -> Self {
        let mut command = Command::new("bash");
        let script = format!("{limit} && exec \"$@\"");
        command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_ekokv")]);
        ready(Self::run(command, data_dir, &SMALL))
    }

    /// The same behind a mount that nobody else sees.
    pub(crate) fn start_mounted(data_dir: &Path, mount: &str) -> Self {
        let mut command = Command::new("unshare");
        let script = format!("{mount} && exec \"$@\"");
        command.args(["-m", "bash", "-c", &script, "bash"]);
        command.arg(env!("CARGO_BIN_EXE_ekokv"));
        ready(Self::run(command, data_dir, &SMALL))
    }

    /// The same with nothing but the arguments given.
    pub(crate) fn start_as_is(data_dir: &Path, arguments: &[&str]) -> Self {
        ready(Self::try_start(data_dir, arguments))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// The same with small segments and a variable of its environment.
    pub(crate) fn try_start_with(
        data_dir: &Path,
        variable: &str,
        value: &str,
    ) -> Result<Self, (ExitStatus, Vec<String>)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ekokv"));
        command.env(variable, value);
        Self::run(command, data_dir, &SMALL)
    }

    /// The same, or the exit status and the log of a process that did not get ready.
    pub(crate) fn try_start(
        data_dir: &Path,
        arguments: &[&str],
    ) -> Result<Self, (ExitStatus, Vec<String>)> {
        Self::run(
            Command::new(env!("CARGO_BIN_EXE_ekokv")),
            data_dir,
            arguments,
        )
    }

    fn run(
        command: Command,
        data_dir: &Path,
        arguments: &[&str],
    ) -> Result<Self, (ExitStatus, Vec<String>)> {
        let (mut child, received) = spawn(command, data_dir, arguments);
        let mut log = Vec::new();
        loop {
            let Ok(line) = received.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                return Err((child.wait().unwrap(), log));
            };
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let ready = event["fields"]["message"] == "ready";
            let address = event["fields"]["address"]
                .as_str()
                .and_then(|a| a.parse().ok());
            log.push(line);
            if let (true, Some(address)) = (ready, address) {
                return Ok(Self {
                    child,
                    address,
                    log,
                    later: received,
                });
            }
        }
    }

    /// Starts the binary as [`Process::start`] does and kills it when the files of the data dir have
    /// changed so many times, or when it is ready before. Says how often they had, and whether it was.
    pub(crate) fn kill_while_starting(
        data_dir: &Path,
        arguments: &[&str],
        changes: usize,
    ) -> (usize, bool) {
        let command = Command::new(env!("CARGO_BIN_EXE_ekokv"));
        let (mut child, received) = spawn(command, data_dir, &[&SMALL, arguments].concat());
        let begin = Instant::now();
        let (mut seen, mut ready) = (0, false);
        let mut files = files(data_dir);
        while seen < changes && !ready {
            match received.try_recv() {
                Ok(line) => ready = line.contains(r#""message":"ready""#),
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => {
                    let status = child.wait().unwrap();
                    panic!("{status} before {changes} changes of the files");
                }
            }
            assert!(begin.elapsed() < PATIENCE, "neither ready nor at an end");
            let now = self::files(data_dir);
            seen += usize::from(now != files);
            files = now;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        (seen, ready)
    }

    /// SIGKILL: nothing of the process runs after this.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A signal by name, as `kill -s` takes it.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged since it was ready, as far as nobody has read it.
    pub(crate) fn said(&self) -> String {
        self.later.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// Waits for the end; the exit status, and every line that was logged after it was ready.
    pub(crate) fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let mut log = Vec::new();
        while let Ok(line) = self.later.recv_timeout(PATIENCE) {
            log.push(line);
        }
        // Its log has ended, or it never will: a test fails rather than hang.
        let _ = self.child.kill();
        (self.child.wait().unwrap(), log)
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A token from the admin key.
    pub(crate) fn token(&self) -> String {
        let body = format!(r#"{{"api_key":"{ADMIN_KEY}"}}"#);
        let answer =
            Client::new(self.address).request("POST", "/api/auth/token", &[], body.as_bytes());
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }
}

/// Starts the binary, and passes on what it logs.
fn spawn(
    mut command: Command,
    data_dir: &Path,
    arguments: &[&str],
) -> (Child, mpsc::Receiver<String>) {
    // What steers the tests is no setting of the binary's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EKOKV_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .args(arguments)
        .env("EKOKV_ADMIN_KEY", ADMIN_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (lines, received) = mpsc::channel();
    // Reads to the end, so that the process never waits for us.
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    (child, received)
}

/// Names and lengths of the files in a data dir and the folders in it.
fn files(data_dir: &Path) -> Vec<(PathBuf, u64)> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut paths = list(data_dir);
    let deeper: Vec<PathBuf> = paths.iter().flat_map(|path| list(path)).collect();
    paths.extend(deeper);
    paths.sort();
    // What is renamed or removed meanwhile has no length.
    let length = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
    paths
        .into_iter()
        .map(|path| (path.clone(), length(&path)))
        .collect()
}

fn ready(started: Result<Process, (ExitStatus, Vec<String>)>) -> Process {
    started.unwrap_or_else(|(status, log)| panic!("did not start: {status}\n{}", log.join("\n")))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
