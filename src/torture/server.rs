//! A server of this very binary, as a child process.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use crate::store::Failure;

/// How long a start may take: the data is small.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// The exit code of a server that refuses the data.
const DAMAGED: i32 = 65;
/// Of the data that is written and removed here.
const ADMIN_KEY: &str = "torture-admin-key-0123456789-abcdefgh";
/// Small segments, so that the log goes from one to the next often.
const SETTINGS: [&str; 10] = [
    "--listen",
    "127.0.0.1:0",
    "--segment-bytes",
    "1MiB",
    "--max-value-bytes",
    "64KiB",
    "--max-body-bytes",
    "128KiB",
    "--max-batch-keys",
    "100",
];

/// A child process that may not be ready yet. It is killed when this is dropped.
pub(super) struct Starting {
    child: Child,
    log: Receiver<String>,
}

/// A server that is ready.
pub(super) struct Server {
    child: Starting,
    pub(super) address: SocketAddr,
    /// Of an admin.
    pub(super) token: String,
}

impl Starting {
    pub(super) fn new(data_dir: &Path) -> Result<Self, Failure> {
        let cannot = |error| Failure::Storage(format!("cannot start a server: {error}"));
        let mut command = Command::new(env::current_exe().map_err(cannot)?);
        // What is set for the servers of this machine is not for this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("EKOKV_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("serve")
            .args(SETTINGS)
            .arg("--data-dir")
            .arg(data_dir)
            .env("EKOKV_ADMIN_KEY", ADMIN_KEY)
            // A signal from the terminal is for us alone.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let (lines, log) = channel();
        if let Some(stderr) = child.stderr.take() {
            // Reads to the end, so that the server never waits for us.
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
            });
        }
        Ok(Self { child, log })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// [`Failure::Damaged`] with what it said last if it refuses the data, [`Failure::Storage`] if it ends
    /// for another reason or takes too long.
    pub(super) fn ready(mut self) -> Result<Server, Failure> {
        let mut last = String::new();
        let address = loop {
            match self.log.recv_timeout(START_TIME_MAX) {
                Ok(line) => match address_in(&line) {
                    Some(address) => break address,
                    None => last = line,
                },
                Err(RecvTimeoutError::Disconnected) => {
                    // Its log has ended, and so does it.
                    let code = self.child.wait().ok().and_then(|status| status.code());
                    let said = format!("a server does not start on what a kill left: {last}");
                    return Err(if code == Some(DAMAGED) {
                        Failure::Damaged(said)
                    } else {
                        Failure::Storage(said)
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::Storage(format!(
                        "a server is not ready after {START_TIME_MAX:?}: {last}"
                    )));
                }
            }
        };
        let token = fetch_token(address)
            .ok_or_else(|| Failure::Storage("a server that is ready gives no token".to_owned()))?;
        Ok(Server {
            child: self,
            address,
            token,
        })
    }

    /// SIGKILL: nothing of it runs after this.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.address, &self.token)
            .map_err(|error| Failure::Storage(format!("cannot connect to a server: {error}")))
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let child = &mut self.child.child;
        let stopped = kill_process(Pid::from_child(child), Signal::TERM)
            .map_err(std::io::Error::from)
            .and_then(|()| child.wait());
        match stopped {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Storage(format!(
                "a server that was asked to stop ended with {status}"
            ))),
            Err(error) => Err(Failure::Storage(format!("cannot stop a server: {error}"))),
        }
    }
}

/// The address in the line that says that the server is ready.
fn address_in(line: &str) -> Option<SocketAddr> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields")?;
    if fields.get("message")?.as_str()? != "ready" {
        return None;
    }
    fields.get("address")?.as_str()?.parse().ok()
}

fn fetch_token(address: SocketAddr) -> Option<String> {
    let body = format!(r#"{{"api_key":"{ADMIN_KEY}"}}"#);
    let mut client = Client::new(address, "").ok()?;
    let answer = client.call("POST", "/api/auth/token", &body).ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    Some(answer.get("token")?.as_str()?.to_owned())
}
