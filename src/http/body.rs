//! Reading a body: counted against its limit and against the budget, and in time.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::timeout;
use warp::Stream;

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

/// A body that is still on its way.
pub(super) struct Payload<S> {
    stream: S,
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

impl<S, B> Payload<S>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf,
{
    /// A body that was announced with so many bytes, if it was, and whose sender `waits` for a
    /// go-ahead.
    pub(super) fn new(stream: S, declared: Option<u64>, waits: bool) -> Self {
        let progress = if waits {
            Progress::Held
        } else {
            Progress::Coming
        };
        Self {
            stream,
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
        let gathered = timeout(
            BODY_TIME_MAX,
            self.gather(app, limit, declared, &mut reservation),
        )
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
        reservation: &mut Reservation,
    ) -> Result<Buffer, Refusal> {
        let Some(first) = self.next().await? else {
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
        let part = std::future::poll_fn(|context| self.poll(context));
        match timeout(BODY_PAUSE_MAX, part).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => {
                self.progress = Progress::Broken;
                Err(Refusal::BodyCut)
            }
            Err(_) => {
                self.progress = Progress::Broken;
                Err(Refusal::BodySlow)
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, warp::Error>>> {
        Pin::new(&mut self.stream)
            .poll_next(context)
            // The parts are `Bytes` already, for which this copies nothing.
            .map(|part| part.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining()))))
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
