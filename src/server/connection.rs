//! One connection: HTTP/1.1 over a socket, and the deadlines that end it.
//!
//! hyper's header timeout sets a timer for each request and ends idle connections as if they were
//! slow ones. Instead the connection's task looks at what has happened every [`TICK`], which costs
//! the requests nothing; a deadline is therefore late by up to one tick.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

use super::activity::{Activity, Seen, Watched};
use crate::http;

/// How often a connection is looked at.
const TICK: Duration = Duration::from_secs(5);
/// From a new connection to the first byte of its first request.
const FIRST_BYTE_TICKS: u32 = 6;
/// From the first byte of a request, or of what is left of the one before, to the end of its head.
const HEAD_TICKS: u32 = 4;
/// From an answer to the first byte of the next request. Clients' pools keep connections for up to
/// 90 seconds: the side that closes first should be theirs, or they meet a dead connection.
const IDLE_TICKS: u32 = 24;
/// Without any progress in writing an answer.
const WRITE_TICKS: u32 = 6;

/// What answers the requests of one connection.
pub(super) trait Answers:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Send
    + Sync
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Send
        + Sync
        + 'static
{
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: TcpStream,
    answers: impl Answers,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request: Request<Incoming>| {
        let answering = activity.start();
        let response = answers.call(request);
        async move {
            let response = response.await;
            response.map(|response| http::held(response, answering))
        }
    });
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client that has said all it has to say still waits for the answer.
        .half_close(true)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    // It has a waker of its own, and is not looked at with each request.
    let mut calls = FuturesUnordered::new();
    calls.push(called(ticks, Some(finish), cut.clone()));
    loop {
        tokio::select! {
            biased;
            // What a peer does wrong, hyper has told it; there is nothing to tell anybody else.
            _ = connection.as_mut() => return,
            Some(call) = calls.next() => match call {
                Call::Tick(ticks, finish) if !watch.is_over(activity.seen()) => {
                    calls.push(called(ticks, finish, cut.clone()));
                }
                Call::Finish(ticks) => {
                    connection.as_mut().graceful_shutdown();
                    calls.push(called(ticks, None, cut.clone()));
                }
                Call::Tick(..) | Call::Cut => return,
            },
        }
    }
}

/// What a connection hears from others than its peer; with it comes what is listened to next.
enum Call {
    /// Time to look at it.
    Tick(Interval, Option<CancellationToken>),
    /// No further request is to be taken.
    Finish(Interval),
    /// It is to end.
    Cut,
}

/// Waits for the next call. `finish` is `None` once it has been heard.
async fn called(
    mut ticks: Interval,
    finish: Option<CancellationToken>,
    cut: CancellationToken,
) -> Call {
    let finished = async {
        match &finish {
            Some(finish) => finish.cancelled().await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ = ticks.tick() => Call::Tick(ticks, finish),
        () = finished => Call::Finish(ticks),
        () = cut.cancelled() => Call::Cut,
    }
}

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Our own answer, to its last byte. The body has its own deadlines, and so has the store.
    Answer,
    /// The peer to take what we write.
    Write,
    /// The first byte of the first request.
    FirstByte,
    /// The rest of a request's head.
    Head,
    /// The next request.
    Next,
}

impl Waits {
    fn ticks_max(self) -> u32 {
        match self {
            Self::Answer => u32::MAX,
            Self::Write => WRITE_TICKS,
            Self::FirstByte => FIRST_BYTE_TICKS,
            Self::Head => HEAD_TICKS,
            Self::Next => IDLE_TICKS,
        }
    }
}

/// Turns what is seen at each tick into the end of a connection that has waited too long.
#[derive(Debug, Default)]
struct Watch {
    before: Seen,
    /// Reads that belong to requests already answered.
    reads_answered: u64,
    waited: Option<(Waits, u32)>,
}

impl Watch {
    /// Whether a deadline has passed, at one tick after the last call.
    fn is_over(&mut self, now: Seen) -> bool {
        let is_new_request = now.started != self.before.started;
        if is_new_request || now.answered != now.started {
            self.reads_answered = now.reads;
        }
        let waits = if now.is_blocked {
            Waits::Write
        } else if now.started != now.answered {
            Waits::Answer
        } else if now.reads == 0 {
            Waits::FirstByte
        } else if now.reads > self.reads_answered {
            Waits::Head
        } else {
            Waits::Next
        };
        let is_same = self.waited.is_some_and(|(before, _)| before == waits)
            && !is_new_request
            && (waits != Waits::Write || now.writes == self.before.writes);
        let ticks = match self.waited {
            Some((_, ticks)) if is_same => ticks.saturating_add(1),
            _ => 0,
        };
        self.before = now;
        self.waited = Some((waits, ticks));
        ticks >= waits.ticks_max()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// What should come at once is not waited for longer than this.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn calls_come_again_and_finish_once() {
        let (finish, cut) = (CancellationToken::new(), CancellationToken::new());
        let mut ticks = interval(Duration::from_millis(1));
        for _ in 0..3 {
            let Call::Tick(next, heard) = called(ticks, Some(finish.clone()), cut.clone()).await
            else {
                panic!("nobody has called");
            };
            assert!(heard.is_some());
            ticks = next;
        }
        finish.cancel();
        // A tick may be due as well.
        let ticks = loop {
            match called(ticks, Some(finish.clone()), cut.clone()).await {
                Call::Tick(next, _) => ticks = next,
                Call::Finish(ticks) => break ticks,
                Call::Cut => panic!("nobody has cut"),
            }
        };
        assert!(matches!(
            called(ticks, None, cut.clone()).await,
            Call::Tick(_, None)
        ));
        cut.cancel();
        let long = interval(Duration::from_secs(3600));
        // The first tick of an interval is due at once.
        let mut call = called(long, None, cut.clone()).await;
        while let Call::Tick(ticks, _) = call {
            let next = timeout(PATIENCE, called(ticks, None, cut.clone())).await;
            call = next.unwrap();
        }
        assert!(matches!(call, Call::Cut));
    }

    /// A connection that answers a path that begins with `/now`, and leaves others without an answer.
    async fn served(
        request: &str,
    ) -> (TcpStream, CancellationToken, CancellationToken, impl Future) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (finish, cut) = (CancellationToken::new(), CancellationToken::new());
        let answers = service_fn(|request: Request<Incoming>| async move {
            if !request.uri().path().starts_with("/now") {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::default())
        });
        let serving = tokio::spawn(serve(stream, answers, finish.clone(), cut.clone()));
        let head = format!("GET {request} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        (client, finish, cut, serving)
    }

    #[tokio::test]
    async fn a_connection_between_two_requests_ends_when_it_is_to_finish() {
        let (mut client, finish, _cut, serving) = served("/now").await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        finish.cancel();
        assert!(timeout(PATIENCE, serving).await.is_ok());
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_connection_without_an_answer_ends_when_it_is_cut() {
        let (mut client, finish, cut, serving) = served("/never").await;
        finish.cancel();
        cut.cancel();
        assert!(timeout(PATIENCE, serving).await.is_ok());
        let mut rest = Vec::new();
        let read = client.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{read:?} {rest:?}");
    }

    /// Ticks until the connection is ended, if what is seen changes as `next` says.
    fn ticks(watch: &mut Watch, mut next: impl FnMut(u64) -> Seen) -> Option<u64> {
        (1..1_000).find(|tick| watch.is_over(next(*tick)))
    }

    fn idle(requests: u64) -> Seen {
        Seen {
            reads: requests,
            started: requests,
            answered: requests,
            ..Seen::default()
        }
    }

    #[test]
    fn a_new_connection_must_say_something() {
        let ended = ticks(&mut Watch::default(), |_| Seen::default());
        assert_eq!(ended, Some(u64::from(FIRST_BYTE_TICKS) + 1));
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_ended_all_the_same() {
        let ended = ticks(&mut Watch::default(), |tick| Seen {
            reads: tick,
            ..Seen::default()
        });
        assert_eq!(ended, Some(u64::from(HEAD_TICKS) + 1));
        let mut later = Watch::default();
        assert!(!later.is_over(idle(7)));
        let ended = ticks(&mut later, |tick| Seen {
            reads: 7 + tick,
            ..idle(7)
        });
        assert_eq!(ended, Some(u64::from(HEAD_TICKS) + 1));
    }

    #[test]
    fn an_idle_connection_lives_longer_and_each_request_counts_anew() {
        let mut watch = Watch::default();
        assert_eq!(
            ticks(&mut watch, |_| idle(1)),
            Some(u64::from(IDLE_TICKS) + 1)
        );
        let mut busy = Watch::default();
        assert_eq!(ticks(&mut busy, |tick| idle(1 + tick / 20)), None);
    }

    #[test]
    fn a_request_under_way_is_not_ended() {
        let waiting = Seen {
            reads: 3,
            started: 1,
            ..Seen::default()
        };
        assert_eq!(ticks(&mut Watch::default(), |_| waiting), None);
    }

    #[test]
    fn a_reader_must_make_progress() {
        let stuck = Seen {
            is_blocked: true,
            writes: 9,
            ..idle(1)
        };
        assert_eq!(
            ticks(&mut Watch::default(), |_| stuck),
            Some(u64::from(WRITE_TICKS) + 1)
        );
        let slow = |tick| Seen {
            writes: tick,
            ..stuck
        };
        assert_eq!(ticks(&mut Watch::default(), slow), None);
    }
}
