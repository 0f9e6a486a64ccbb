//! The server: from a listener and settings to a drained, closed store.
//!
//! The port answers before the store is loaded and as long as anything waits for an answer. What
//! stops first is accepting, then requests, then the store: no answer is lost that the store gave.

mod accept;
mod activity;
mod bare;
mod connection;
mod startup;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::http::{self, App};
use crate::store::{Failure, Opened, Options, Store, Threads};

#[doc(hidden)]
pub use bare::serve_bare;
use connection::Answers;

/// How long requests under way may take after the signal to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// The same after the log has failed: their answers are refusals that only need to leave.
const FAILURE_TIME_MAX: Duration = Duration::from_secs(1);
/// So long connections have that are cut: each ends as soon as its task runs.
const CUT_TIME_MAX: Duration = Duration::from_secs(1);

/// Serves `config` on `listener` until `shutdown` is ready or the store has failed.
///
/// # Errors
/// Why the store could not be opened, or what ended it.
pub async fn run(
    listener: TcpListener,
    config: Config,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(|error| {
        Failure::Settings(format!(
            "the address that is listened on has no name: {error}"
        ))
    })?;
    let app = Arc::new(App::new(&config, Arc::clone(&clock)));
    let mut options = config.store_options(clock);
    let workers = Handle::current();
    options.workers = (workers.metrics().num_workers() > 1).then_some(workers);
    let answers = {
        let app = Arc::clone(&app);
        move |peer| http::service(Arc::clone(&app), peer)
    };
    let connections = Connections::accept(listener, answers);
    let mut shutdown = pin!(shutdown);
    startup::listening(address, &config);

    let opened = tokio::select! {
        opened = open(options) => opened,
        () = &mut shutdown => {
            tracing::info!("stopped before the store was loaded");
            connections.close(DRAIN_TIME_MAX).await;
            return Ok(());
        }
    };
    let Opened {
        store,
        threads,
        jwt_secret,
        new_admin_key,
    } = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            connections.close(FAILURE_TIME_MAX).await;
            return Err(failure);
        }
    };
    let failed = store.failed();
    app.serve(store, &jwt_secret);
    startup::ready(address, new_admin_key.as_deref());

    let (failure, grace) = tokio::select! {
        () = &mut shutdown => (None, DRAIN_TIME_MAX),
        failure = failed => (Some(failure), FAILURE_TIME_MAX),
    };
    app.stop();
    tracing::info!("stopping");
    connections.close(grace).await;
    match failure {
        None => stop(threads).await,
        Some(failure) => {
            // The threads are ending by themselves; a disk that hangs must not keep the process.
            let _ = timeout(FAILURE_TIME_MAX, stop(threads)).await;
            Err(failure)
        }
    }
}

/// Opens the store on a thread of its own: a start may take minutes, and a process that is told to
/// stop meanwhile does not wait for it.
async fn open(options: Options) -> Result<Opened, Failure> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("open".to_owned())
        .spawn(move || {
            if let Err(Ok(unwanted)) = sender.send(Store::open(options)) {
                drop(unwanted.store);
                let _ = unwanted.threads.stop();
            }
        });
    if let Err(error) = thread {
        return Err(Failure::Settings(format!("cannot start a thread: {error}")));
    }
    // The sender is dropped unsent only if the thread panicked.
    receiver
        .await
        .unwrap_or_else(|_| Err(Failure::Storage("loading the store panicked".to_owned())))
}

/// Closes the store.
async fn stop(threads: Threads) -> Result<(), Failure> {
    tokio::task::spawn_blocking(|| threads.stop())
        .await
        .unwrap_or_else(|_| Err(Failure::Storage("closing the store panicked".to_owned())))
}

/// The connections of a server, and the two ways to end them.
struct Connections {
    tasks: TaskTracker,
    accepting: JoinHandle<Option<()>>,
    /// Accept no more.
    refuse: CancellationToken,
    /// Finish what is under way.
    finish: CancellationToken,
    /// End at once.
    cut: CancellationToken,
}

impl Connections {
    /// Accepts on `listener` from now on; `answers` makes what answers a peer.
    fn accept<S: Answers>(
        listener: TcpListener,
        answers: impl Fn(SocketAddr) -> S + Send + 'static,
    ) -> Self {
        let tasks = TaskTracker::new();
        let refuse = CancellationToken::new();
        let finish = CancellationToken::new();
        let cut = CancellationToken::new();
        let loops = accept::accept(
            listener,
            answers,
            tasks.clone(),
            finish.clone(),
            cut.clone(),
        );
        let accepting = tokio::spawn(refuse.clone().run_until_cancelled_owned(loops));
        Self {
            tasks,
            accepting,
            refuse,
            finish,
            cut,
        }
    }

    /// Ends them all: gently within `grace`, then at once.
    async fn close(self, grace: Duration) {
        self.refuse.cancel();
        // It ends at its next await; a panic in it has been logged and changes nothing here.
        let _ = self.accepting.await;
        self.finish.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.tasks.len(),
                "cutting connections that did not end"
            );
            self.cut.cancel();
            // All but one whose writer waits for a disk that hangs.
            let _ = timeout(CUT_TIME_MAX, self.tasks.wait()).await;
        }
    }
}
