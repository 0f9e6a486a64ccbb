//! The accept loop: one task per connection, no more than there is room for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Answers};

/// Open connections; beyond, new ones wait in the kernel's queue.
const CONNECTIONS_MAX: u64 = 10_000;
/// File descriptors that connections leave to the log, the runtime and whatever else: a log that
/// cannot open its next file is a log that fails.
const DESCRIPTORS_RESERVED: u64 = 64;

/// The kernel takes no more than this for a connection beyond what the peer's window lets it send.
/// With megabytes of an answer in its buffers, a slow reader would read for minutes without any
/// write of ours going on, and could not be told from one that reads nothing.
const UNSENT_BYTES_MAX: u32 = 256 * 1024;

/// So many connections may have been made and not accepted yet, if the system allows it (`net.core.somaxconn`).
/// Beyond it a client's attempt is lost, and it comes back after a second.
const BACKLOG: i32 = 4096;

/// After a failed accept: out of file descriptors, the next one would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is dropped; the connections end by `finish` and `cut`. What answers on one is
/// made for it by `answers`, from the address of its peer.
pub(super) async fn accept<S: Answers>(
    listener: TcpListener,
    answers: impl Fn(SocketAddr) -> S,
    tasks: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    lengthen_backlog(&listener);
    let room = Arc::new(Semaphore::new(connections_max()));
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
        // An answer is written in one go: waiting for more to send only delays it. A failure of
        // either means that the peer is gone already, which the first read finds out.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        let serving = connection::serve(stream, answers(peer), finish.clone(), cut.clone());
        tasks.spawn(async move {
            serving.await;
            drop(permit);
        });
    }
}

/// A listener has room for 128 from its bind on.
fn lengthen_backlog(listener: &TcpListener) {
    // It goes on with what it has otherwise.
    let _ = SockRef::from(listener).listen(BACKLOG);
}

/// As many connections as the limit on file descriptors allows, which is raised as far as it may be.
fn connections_max() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = CONNECTIONS_MAX + DESCRIPTORS_RESERVED;
    let mut descriptors = current.unwrap_or(wanted);
    let possible = maximum.unwrap_or(wanted).min(wanted);
    if descriptors < possible {
        let raised = Rlimit {
            current: Some(possible),
            maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            descriptors = possible;
        }
    }
    let connections = descriptors
        .saturating_sub(DESCRIPTORS_RESERVED)
        .clamp(1, CONNECTIONS_MAX);
    if connections < CONNECTIONS_MAX {
        tracing::warn!(
            descriptors,
            connections,
            "the limit on open files (ulimit -n) allows fewer connections than ekokv would"
        );
    }
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_burst_of_connections_finds_room_before_any_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        lengthen_backlog(&listener);
        let address = listener.local_addr().unwrap();
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let burst = allowed.trim().parse().unwrap_or(usize::MAX).min(300);
        let connect = || TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        let connections: Vec<TcpStream> = (0..burst).map(|_| connect()).collect();
        assert_eq!(connections.len(), burst);
    }
}
