//! A server in this process: a data dir that is removed, a clock that stands still.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ekokv::clock::ManualClock;
use ekokv::config::{Config, Secret};
use ekokv::store::Failure;
use tokio::sync::oneshot;

use super::Client;

/// The admin key of every test server.
pub(crate) const ADMIN_KEY: &str = "golden-admin-key-0123456789-abcdef";

/// What the clock shows at first: 2027-01-15T08:00:00Z.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// How long a start may take before the test fails.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A data dir that goes when the test does.
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "ekokv-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The running half of a [`Server`].
struct Running {
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Failure>>,
}

/// A server on a port of its own.
pub(crate) struct Server {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) config: Config,
    dir: DataDir,
    running: Option<Running>,
}

impl Server {
    /// Settings that start fast: a segment of 1 MiB, and bodies that fit it.
    pub(crate) fn small(dir: &Path) -> Config {
        Config {
            data_dir: dir.to_owned(),
            segment_bytes: 1 << 20,
            max_value_bytes: 64 << 10,
            max_body_bytes: 128 << 10,
            max_inflight_bytes: 1 << 20,
            max_batch_keys: 100,
            max_memory_bytes: 64 << 20,
            admin_key: Some(Secret::new(ADMIN_KEY)),
            ..Config::default()
        }
    }

    /// Starts with [`Server::small`] settings as `change` leaves them, and waits until it is ready.
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = DataDir::new();
        let mut config = Self::small(dir.path());
        change(&mut config);
        let clock = Arc::new(ManualClock::new(START_MS));
        let mut server = Self {
            clock,
            config,
            dir,
            running: None,
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let (address_sender, address) = std::sync::mpsc::channel();
        let (shutdown, stopped) = oneshot::channel();
        let (config, clock) = (self.config.clone(), Arc::clone(&self.clock));
        config.validate().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_sender.send(listener.local_addr().unwrap()).unwrap();
                ekokv::server::run(listener, config, clock, async {
                    // An error means that the test is gone, which is as good a reason to stop.
                    let _ = stopped.await;
                })
                .await
            })
        });
        let address = address.recv().unwrap();
        self.running = Some(Running {
            address,
            shutdown,
            thread,
        });
        let begin = Instant::now();
        loop {
            let readiness = self.client().request("GET", "/readyz", &[], b"");
            if readiness.status == 200 {
                return;
            }
            assert_eq!(readiness.status, 503, "{readiness:?}");
            let running = self.running.as_ref().unwrap();
            assert!(
                !running.thread.is_finished(),
                "the server ended while it was loading"
            );
            assert!(begin.elapsed() < START_TIME_MAX, "the store is not loaded");
            // There is nothing to wait for: the server tells only those who ask.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address())
    }

    /// A token for [`ADMIN_KEY`].
    pub(crate) fn admin_token(&self) -> String {
        let body = format!("{{\"api_key\":\"{ADMIN_KEY}\"}}");
        let response = self
            .client()
            .request("POST", "/api/auth/token", &[], body.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
        let text = response.text();
        text.split('"').nth(3).unwrap().to_owned()
    }

    /// The secret under which tokens are signed.
    pub(crate) fn jwt_secret(&self) -> Vec<u8> {
        fs::read(self.data_dir().join("jwt-secret")).unwrap()
    }

    /// Tells the server to stop; what it ends with is seen by [`Server::join`].
    pub(crate) fn signal(&mut self) -> JoinHandle<Result<(), Failure>> {
        let running = self.running.take().unwrap();
        running.shutdown.send(()).unwrap();
        running.thread
    }

    /// Stops and asserts that the stop was clean.
    pub(crate) fn stop(&mut self) {
        assert_eq!(self.signal().join().unwrap(), Ok(()));
    }

    /// Stops and starts on the same data dir.
    pub(crate) fn restart(&mut self) {
        self.restart_after(|_| {});
    }

    /// As [`Server::restart`], after a change of the settings or of the data dir that they name.
    pub(crate) fn restart_after(&mut self, change: impl FnOnce(&mut Config)) {
        self.stop();
        change(&mut self.config);
        self.run();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The thread holds the data dir: it ends before the dir is removed. A test that failed has
        // said so already.
        if let Some(running) = self.running.take() {
            let _ = running.shutdown.send(());
            let _ = running.thread.join();
        }
    }
}
