//! The accept loop: one task per connection, no more than there is room for.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;
use crate::http::App;

/// Open connections; beyond, new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 10_000;

/// After a failed accept: out of file descriptors, the next one would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is dropped; the connections end by `finish` and `cut`.
pub(super) async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    tasks: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // An answer is written in one go: waiting for more to send only delays it. A failure here
        // means that the peer is gone already, which the first read finds out.
        let _ = stream.set_nodelay(true);
        let serving =
            connection::serve(stream, peer, Arc::clone(&app), finish.clone(), cut.clone());
        tasks.spawn(async move {
            serving.await;
            drop(permit);
        });
    }
}
