//! A server with a data dir of its own, stopped and started again on the same port.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use ekodb_client::Client;

use super::data_dir::DataDir;
use super::process::Process;

/// A server that keeps its data dir and its address over restarts.
pub(crate) struct Server {
    address: SocketAddr,
    // Declared before the directory: the process ends before its files go.
    process: Option<Process>,
    dir: DataDir,
}

impl Server {
    /// A first start, on a free port.
    pub(crate) fn start() -> Self {
        let dir = DataDir::new();
        let process = Process::start("127.0.0.1:0", dir.path());
        Self {
            address: process.address(),
            process: Some(process),
            dir,
        }
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Ends the process as a supervisor does, and asserts that it stops cleanly.
    pub(crate) fn stop(&mut self) {
        let status = self.process.take().unwrap().terminate();
        assert_eq!(status.code(), Some(0), "a clean stop exits with 0");
    }

    /// Starts again what was killed or stopped: same data dir, same port.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let process = Process::start(&self.address.to_string(), self.dir.path());
        assert_eq!(process.address(), self.address);
        self.process = Some(process);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The admin key that the first start made.
    pub(crate) fn admin_key(&self) -> String {
        let key = fs::read_to_string(self.data_dir().join("admin-key")).unwrap();
        key.trim().to_owned()
    }

    /// A client as the SDK's documentation builds it, with the admin key.
    pub(crate) fn client(&self) -> Client {
        self.client_with(&self.admin_key())
    }

    /// A client with any key.
    pub(crate) fn client_with(&self, api_key: &str) -> Client {
        Client::builder()
            .base_url(format!("http://{}", self.address))
            .api_key(api_key)
            .build()
            .unwrap()
    }
}
