//! Reading a body: counted against its limit and against the budget, and in time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::timeout;

use super::app::App;
use super::budget::Reservation;
use super::refusal::Refusal;

/// The time that a body may take from its first byte to its last.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);
/// The time that a body may take between two of its parts.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(20);
/// A body that nobody wants is read to its end, so that its sender comes to read the refusal, but
/// no longer than this and no further than that.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The buffer for a body of unknown length begins with this and doubles.
const BUFFER_BYTES_MIN: usize = 8 * 1024;

/// A body as a connection has it.
pub trait Incoming: Body<Data = Bytes> + Unpin + Send + 'static {}

impl<B: Body<Data = Bytes> + Unpin + Send + 'static> Incoming for B {}

/// A body that is still on its way.
pub(super) struct Payload<B> {
    body: B,
    /// Bytes that the sender announced.
    declared: Option<u64>,
    progress: Progress,
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Its sender waits for a go-ahead, which the first poll gives.
    Held,
    /// Not all of it has been read.
    Coming,
    /// All of it has been read.
    Arrived,
    /// It has ended early, or takes too long to wait for its end.
    Broken,
}

/// A body that has arrived, and the reservation of its memory.
pub(super) struct Arrived {
    /// Its bytes.
    pub(super) bytes: Buffer,
    /// Memory for it.
    pub(super) reservation: Reservation,
}

/// The bytes of a body: as they came in one piece, or put together.
pub(super) enum Buffer {
    /// A part of the connection's read buffer.
    Piece(Bytes),
    /// A buffer of its own.
    Whole(Vec<u8>),
}

impl Buffer {
    /// All of it.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Piece(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }

    /// All of it in a buffer that is exactly as long and belongs to nothing else.
    pub(super) fn into_exact(self) -> Bytes {
        match self {
            Self::Piece(bytes) => Bytes::copy_from_slice(&bytes),
            Self::Whole(bytes) => bytes.into_boxed_slice().into(),
        }
    }
}

impl<B: Incoming> Payload<B> {
    /// A body that was announced with so many bytes, if it was, and whose sender `waits` for a
    /// go-ahead.
    pub(super) fn new(body: B, declared: Option<u64>, waits: bool) -> Self {
        let progress = if waits {
            Progress::Held
        } else {
            Progress::Coming
        };
        Self {
            body,
            declared,
            progress,
        }
    }

    /// The whole body, of at most `--max-body-bytes`.
    pub(super) async fn read(&mut self, app: &App) -> Result<Arrived, Refusal> {
        self.read_within(app, app.limits.body_bytes).await
    }

    /// The whole body, of at most `limit` bytes.
    pub(super) async fn read_within(
        &mut self,
        app: &App,
        limit: usize,
    ) -> Result<Arrived, Refusal> {
        let declared = match self.declared.map(usize::try_from) {
            None => None,
            Some(Ok(length)) if length <= limit => Some(length),
            Some(_) => return Err(Refusal::BodyTooLarge { limit }),
        };
        let mut reservation = Reservation::default();
        if !reservation.grow(&app.budget, declared.unwrap_or(0)) {
            return Err(Refusal::InflightFull);
        }
        self.progress = Progress::Coming;
        // Most bodies have come with their head, and need no timer.
        let first = match poll_fn(|context| Poll::Ready(self.poll(context))).await {
            Poll::Ready(Some(Ok(bytes))) if declared == Some(bytes.len()) => {
                self.progress = Progress::Arrived;
                let bytes = Buffer::Piece(bytes);
                return Ok(Arrived { bytes, reservation });
            }
            Poll::Ready(part) => Some(self.part(part)?),
            Poll::Pending => None,
        };
        // Boxed: what few requests need would otherwise be in the way of all.
        let gathered = Box::pin(timeout(
            BODY_TIME_MAX,
            self.gather(app, limit, declared, first, &mut reservation),
        ))
        .await;
        let bytes = gathered.unwrap_or_else(|_| {
            self.progress = Progress::Broken;
            Err(Refusal::BodySlow)
        })?;
        self.progress = Progress::Arrived;
        Ok(Arrived { bytes, reservation })
    }

    async fn gather(
        &mut self,
        app: &App,
        limit: usize,
        declared: Option<usize>,
        first: Option<Option<Bytes>>,
        reservation: &mut Reservation,
    ) -> Result<Buffer, Refusal> {
        let first = match first {
            Some(part) => part,
            None => self.next().await?,
        };
        let Some(first) = first else {
            return Ok(Buffer::Piece(Bytes::new()));
        };
        if declared == Some(first.len()) {
            return Ok(Buffer::Piece(first));
        }
        let mut whole = Vec::new();
        let mut piece = Some(first);
        while let Some(bytes) = piece {
            let length = whole.len().saturating_add(bytes.len());
            if length > limit {
                return Err(Refusal::BodyTooLarge { limit });
            }
            if length > whole.capacity() {
                let doubled = whole
                    .capacity()
                    .saturating_mul(2)
                    .max(BUFFER_BYTES_MIN)
                    .min(limit);
                let capacity = declared.unwrap_or(doubled).max(length);
                if !reservation.grow(&app.budget, capacity) {
                    return Err(Refusal::InflightFull);
                }
                whole.reserve_exact(capacity.saturating_sub(whole.len()));
            }
            whole.extend_from_slice(&bytes);
            piece = self.next().await?;
        }
        Ok(Buffer::Whole(whole))
    }

    /// The next part, or `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let part = poll_fn(|context| self.poll(context));
        match timeout(BODY_PAUSE_MAX, part).await {
            Ok(part) => self.part(part),
            Err(_) => {
                self.progress = Progress::Broken;
                Err(Refusal::BodySlow)
            }
        }
    }

    /// A part as it came, or what became of it.
    fn part(&mut self, part: Option<Result<Bytes, B::Error>>) -> Result<Option<Bytes>, Refusal> {
        part.transpose().map_err(|_| {
            self.progress = Progress::Broken;
            Refusal::BodyCut
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Ok(Ok(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // Trailers say nothing here.
                Some(Ok(Err(_))) => {}
            }
        }
    }

    /// Lets go of a body that a refusal has not read; whether the connection can go on. One that is
    /// closed while its sender is still sending loses the refusal as well, so what is left of the
    /// body is read and forgotten.
    pub(super) fn dismiss(mut self) -> bool {
        match self.progress {
            Progress::Coming => {}
            Progress::Arrived => return true,
            // Behind a head that waits, a body may follow or the next request: nobody can tell.
            Progress::Held | Progress::Broken => return false,
        }
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match self.poll(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => return true,
                Poll::Ready(Some(Err(_))) => return false,
                Poll::Pending => break,
            }
        }
        tokio::spawn(timeout(LINGER_TIME_MAX, async move {
            let mut seen: usize = 0;
            while seen < LINGER_BYTES_MAX
                && let Ok(Some(bytes)) = self.next().await
            {
                seen = seen.saturating_add(bytes.len());
            }
        }));
        true
    }
}
