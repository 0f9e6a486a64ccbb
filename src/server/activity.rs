//! What a connection has been doing, seen from its socket and its service: enough to tell a client
//! that is idle, slow or gone from one that works.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Answers up to this length are handed to the kernel in one piece.
const TOGETHER_BYTES_MAX: usize = 1024;

/// Counters of one connection. Only its own task writes and reads them, so no order between them
/// needs to be kept.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Successful reads.
    reads: AtomicU64,
    /// Successful writes.
    writes: AtomicU64,
    /// Requests whose head has arrived.
    started: AtomicU64,
    /// Requests whose answer is made, to its last byte; perhaps it has not left.
    answered: AtomicU64,
    /// The last write found no room.
    is_blocked: AtomicBool,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) started: u64,
    pub(super) answered: u64,
    pub(super) is_blocked: bool,
}

impl Activity {
    /// A request has arrived. It is answered when the guard is dropped, which belongs into the
    /// answer's body: one that is streamed is made while it leaves.
    pub(super) fn start(self: &Arc<Self>) -> Answering {
        self.started.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// The counters as of now.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            is_blocked: self.is_blocked.load(Ordering::Relaxed),
        }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        self.is_blocked
            .store(outcome.is_pending(), Ordering::Relaxed);
        if matches!(outcome, Poll::Ready(Ok(_))) {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A request that is not answered yet, or whose answer is not complete.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// A socket that counts.
pub(super) struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    /// Counts what `stream` does in `activity`.
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

/// The slices one behind the other, if that is little: head and body of a small answer leave sooner in
/// one piece, for the kernel has less to look through than in a list.
fn joined<'a>(together: &'a mut [u8], slices: &[IoSlice<'_>]) -> Option<&'a [u8]> {
    let mut end = 0usize;
    for slice in slices {
        let start = end;
        end = end.checked_add(slice.len())?;
        together.get_mut(start..end)?.copy_from_slice(slice);
    }
    together.get(..end)
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_ready() {
            self.activity.reads.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut together = [0; TOGETHER_BYTES_MAX];
        let outcome = match joined(&mut together, slices) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(context, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        };
        self.activity.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use hyper::Response;
    use hyper::body::{Body, Frame};

    use super::*;
    use crate::http::held;

    /// A body of so many parts.
    struct Parts(u32);

    impl Body for Parts {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let left = self.0.checked_sub(1);
            self.0 = left.unwrap_or(0);
            Poll::Ready(left.map(|_| Ok(Frame::data(Bytes::from_static(b"part")))))
        }
    }

    #[test]
    fn little_is_joined_and_much_is_not() {
        let mut together = [0; 8];
        let slices = |parts: &[&'static [u8]]| -> Vec<IoSlice<'static>> {
            parts.iter().map(|part| IoSlice::new(part)).collect()
        };
        let fits = slices(&[b"head", b"", b"body"]);
        assert_eq!(joined(&mut together, &fits), Some(&b"headbody"[..]));
        assert_eq!(joined(&mut together, &slices(&[])), Some(&b""[..]));
        assert_eq!(joined(&mut together, &slices(&[b"head", b"body!"])), None);
    }

    fn under_way(activity: &Activity) -> u64 {
        let Seen {
            started, answered, ..
        } = activity.seen();
        started - answered
    }

    #[tokio::test]
    async fn a_request_is_answered_when_its_body_has_ended_or_is_given_up() {
        let activity = Arc::new(Activity::default());
        let answer = |parts| held(Response::new(Parts(parts)), activity.start()).into_body();
        let mut body = answer(2);
        for _ in 0..2 {
            assert!(body.frame().await.is_some());
            assert_eq!(under_way(&activity), 1, "more of it may come");
        }
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(under_way(&activity), 0);

        let given_up = answer(2);
        assert_eq!(under_way(&activity), 1);
        drop(given_up);
        assert_eq!(under_way(&activity), 0);
        assert_eq!(activity.seen().started, 2);
    }
}
