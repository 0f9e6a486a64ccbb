//! The body of a find that is streamed.
//!
//! - The next slice is asked for when the text of the last one has been taken: a slow reader makes a
//!   slow find, and a reader that goes away ends it.
//! - Text is made a piece at a time, each reserved from the budget until it has left.
//! - A find that cannot be finished is cut: the list is never closed unless all of it was said.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{mem, vec};

use bytes::Bytes;
use tokio::time::sleep;
use warp::Stream;

use super::answer;
use super::budget::{Budget, Reservation};
use super::found_text::{append, length};
use super::refusal::Refusal;
use crate::state::find::{Cursor, Query, Record, Slice};
use crate::store::{self, Answer, FindPace, Store};

/// The text of a piece is at most so long, or one record.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// After so long without a record a space is sent.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Before another try while the mailbox or the budget is full, which they are only under overload: a
/// word to everyone who waits for room would cost every answer.
const PAUSE: Duration = Duration::from_millis(20);
/// Tries before a find is given up: some 30 seconds.
const TRIES_MAX: u32 = 1_500;

/// Why a find was cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("{0}")]
    Store(store::Error),
    #[error("there was no room in --max-inflight-bytes for the next part of the answer")]
    NoRoom,
    #[error("the store answered something else")]
    Unexpected,
}

/// A stream of the text of a list.
pub(super) struct Slices(State);

enum State {
    /// A piece that is ready, and what follows it.
    Ready(Bytes, Option<Box<Walk>>),
    /// What follows the piece that was taken last.
    Idle(Box<Walk>),
    /// The next piece is on its way.
    Coming(Coming),
    Ended,
}

type Made = (Bytes, Option<Box<Walk>>);
type Coming = Pin<Box<dyn Future<Output = Result<Made, Cut>> + Send + Sync>>;

impl Slices {
    /// The list that begins with the records of `first`.
    pub(super) fn new(
        store: Store,
        budget: Arc<Budget>,
        query: Arc<Query>,
        first: Slice,
    ) -> Result<Self, Refusal> {
        let walk = Box::new(Walk {
            store,
            budget,
            query,
            records: first.records.into_iter(),
            next: first.next,
            lead: b'[',
            pace: FindPace::default(),
        });
        let (count, length) = walk.measure();
        if count == 0 && walk.next.is_some() {
            return Ok(Self(State::Idle(walk)));
        }
        let reservation = answer::reserve(&walk.budget, length)?;
        let (bytes, rest) = walk.piece(count, length, reservation);
        Ok(Self(State::Ready(bytes, rest)))
    }
}

impl Stream for Slices {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match mem::replace(&mut self.0, State::Ended) {
                State::Ready(bytes, rest) => {
                    self.0 = rest.map_or(State::Ended, State::Idle);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                State::Idle(walk) => self.0 = State::Coming(Box::pin(walk.go_on())),
                State::Coming(mut coming) => match coming.as_mut().poll(context) {
                    Poll::Pending => {
                        self.0 = State::Coming(coming);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((bytes, rest))) => self.0 = State::Ready(bytes, rest),
                    Poll::Ready(Err(error)) => {
                        tracing::warn!(%error, "a find was cut short");
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

/// A find under way.
struct Walk {
    store: Store,
    budget: Arc<Budget>,
    query: Arc<Query>,
    /// Records of the last slice that have not been said.
    records: vec::IntoIter<Record>,
    /// Where the next slice begins.
    next: Option<Cursor>,
    /// What stands before the next record.
    lead: u8,
    pace: FindPace,
}

impl Walk {
    /// How many records the next piece has, and the most bytes that they take.
    fn measure(&self) -> (usize, usize) {
        // The list's two brackets.
        let mut sum = 2usize;
        let mut count = 0usize;
        for record in self.records.as_slice() {
            let longer = sum.saturating_add(length(record));
            if count > 0 && longer > PIECE_BYTES_MAX {
                break;
            }
            sum = longer;
            count = count.saturating_add(1);
        }
        (count, sum)
    }

    /// The text of the next `count` records, and what follows it.
    fn piece(mut self: Box<Self>, count: usize, length: usize, reservation: Reservation) -> Made {
        let mut text = Vec::with_capacity(length);
        for record in self.records.by_ref().take(count) {
            text.push(self.lead);
            append(&mut text, &record);
            self.lead = b',';
        }
        let is_last = self.records.as_slice().is_empty() && self.next.is_none();
        if is_last {
            if self.lead == b'[' {
                text.push(b'[');
            }
            text.push(b']');
        }
        let bytes = Bytes::from_owner(Piece {
            text,
            _reservation: reservation,
        });
        (bytes, (!is_last).then_some(self))
    }

    /// The next piece, from the next slice that has records, if this one has no more.
    async fn go_on(mut self: Box<Self>) -> Result<Made, Cut> {
        let started = Instant::now();
        while self.records.as_slice().is_empty()
            && let Some(cursor) = self.next.take()
        {
            let slice = self.slice(cursor).await?;
            self.records = slice.records.into_iter();
            self.next = slice.next;
            if self.records.as_slice().is_empty()
                && self.next.is_some()
                && started.elapsed() >= SIGN_OF_LIFE
            {
                // Space between the parts of a list means nothing, but that a reader which has gone
                // is noticed, and one which waits knows that it is not forgotten.
                return Ok((Bytes::from_static(b" "), Some(self)));
            }
        }
        let (count, length) = self.measure();
        let reservation = self.room(length).await?;
        Ok(self.piece(count, length, reservation))
    }

    async fn slice(&mut self, cursor: Cursor) -> Result<Slice, Cut> {
        let mut tries = 0;
        loop {
            match self
                .store
                .find(Arc::clone(&self.query), cursor.clone(), &mut self.pace)
                .await
            {
                Ok(reply) => match reply.answer {
                    Answer::Slice(slice) => return Ok(slice),
                    _ => return Err(Cut::Unexpected),
                },
                Err(store::Error::Busy { .. }) if tries < TRIES_MAX => {
                    tries += 1;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(Cut::Store(error)),
            }
        }
    }

    async fn room(&self, length: usize) -> Result<Reservation, Cut> {
        for _ in 0..TRIES_MAX {
            if length > self.budget.limit() {
                break;
            }
            if let Some(reservation) = self.budget.reserve(length) {
                return Ok(reservation);
            }
            sleep(PAUSE).await;
        }
        Err(Cut::NoRoom)
    }
}

/// Text that gives its reservation back when the last of it has left.
struct Piece {
    text: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::pin::pin;
    use std::{env, fs, future};

    use tokio::time::timeout;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::{Config, Secret};
    use crate::state::Form;
    use crate::state::find::Filter;
    use crate::store::{Command, Opened, Put, Threads, Ttl};

    const KEYS: usize = 300;
    /// A piece holds several, a slice more.
    const VALUE_BYTES: usize = 8 << 10;
    /// Enough for a piece, not for two.
    const BUDGET_BYTES: u64 = 100_000;

    /// A store with [`KEYS`] keys, and its data dir, which goes with it.
    struct Filled {
        store: Store,
        threads: Option<Threads>,
        dir: PathBuf,
    }

    impl Filled {
        async fn new(name: &str) -> Self {
            let dir = env::temp_dir().join(format!("ekokv-slices-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            let config = Config {
                data_dir: dir.clone(),
                segment_bytes: 16 << 20,
                max_value_bytes: 1 << 20,
                max_body_bytes: 4 << 20,
                admin_key: Some(Secret::new("an-admin-key-of-thirty-two-chars")),
                ..Config::default()
            };
            let options = config.store_options(Arc::new(ManualClock::new(1)));
            let Opened { store, threads, .. } = Store::open(options).unwrap();
            let value = Bytes::from(format!("\"{}\"", "v".repeat(VALUE_BYTES)));
            let put = |index| Put {
                key: format!("key-{index:05}").into(),
                value: value.clone(),
                form: Form::Bare,
                ttl: Ttl::None,
            };
            let puts = (0..KEYS).map(put).collect();
            store.call(Command::BatchSet { puts }).await.unwrap();
            Self {
                store,
                threads: Some(threads),
                dir,
            }
        }

        /// A find of all keys, with its first slice.
        async fn find(&self, budget: &Arc<Budget>) -> Slices {
            let query = Arc::new(Query::new(Filter::default()).unwrap());
            let cursor = Cursor::default();
            let mut pace = FindPace::default();
            let first = self.store.find(Arc::clone(&query), cursor, &mut pace);
            let first = first.await;
            let Answer::Slice(first) = first.unwrap().answer else {
                panic!("no slice");
            };
            assert!(first.next.is_some());
            Slices::new(self.store.clone(), Arc::clone(budget), query, first).unwrap()
        }

        fn stop(&mut self) {
            if let Some(threads) = self.threads.take() {
                threads.stop().unwrap();
            }
        }
    }

    impl Drop for Filled {
        fn drop(&mut self) {
            self.stop();
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    async fn next(slices: &mut Slices) -> Option<Result<Bytes, Cut>> {
        let mut slices = pin!(slices);
        future::poll_fn(|context| slices.as_mut().poll_next(context)).await
    }

    /// The rest of a stream, to its end.
    async fn rest(slices: &mut Slices, text: &mut Vec<u8>) -> Result<(), Cut> {
        while let Some(piece) = next(slices).await {
            let piece = piece?;
            assert!(piece.len() <= PIECE_BYTES_MAX, "{}", piece.len());
            text.extend_from_slice(&piece);
        }
        Ok(())
    }

    #[tokio::test]
    async fn pieces_are_one_list_of_every_key_once_and_in_order() {
        let filled = Filled::new("list").await;
        let budget = Budget::new(BUDGET_BYTES);
        let mut text = Vec::new();
        rest(&mut filled.find(&budget).await, &mut text)
            .await
            .unwrap();
        let found: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        assert_eq!(found.len(), KEYS);
        for (index, record) in found.iter().enumerate() {
            assert_eq!(record["key"], format!("key-{index:05}"));
        }
        // All of it has left.
        assert!(budget.reserve(budget.limit()).is_some());
    }

    #[tokio::test]
    async fn others_have_their_turn_between_two_slices() {
        let filled = Filled::new("turns").await;
        let budget = Budget::new(BUDGET_BYTES);
        let mut slices = filled.find(&budget).await;
        let mut text = Vec::new();
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            found = rest(&mut slices, &mut text) => found.unwrap(),
            () = others => unreachable!("they go on"),
        }
        // A slice ends at 256 KiB at the latest; the first was found before, the second follows at once.
        assert!(turns >= KEYS * VALUE_BYTES / (256 << 10) - 2, "{turns}");
    }

    #[tokio::test]
    async fn a_full_budget_is_waited_for() {
        let filled = Filled::new("wait").await;
        let budget = Budget::new(BUDGET_BYTES);
        let mut slices = filled.find(&budget).await;
        let first = next(&mut slices).await.unwrap().unwrap();
        let mut text = first.to_vec();
        // A piece counts until it has left.
        assert!(budget.reserve(budget.limit()).is_none());
        drop(first);
        let others = budget.reserve(budget.limit()).unwrap();
        let waited = timeout(Duration::from_millis(200), next(&mut slices)).await;
        assert!(waited.is_err(), "{waited:?}");
        drop(others);
        rest(&mut slices, &mut text).await.unwrap();
        let found: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        assert_eq!(found.len(), KEYS);
    }

    #[tokio::test]
    async fn a_find_that_cannot_go_on_is_cut_and_its_list_not_closed() {
        let mut filled = Filled::new("cut").await;
        let budget = Budget::new(BUDGET_BYTES);
        let mut slices = filled.find(&budget).await;
        filled.stop();
        let mut text = Vec::new();
        let cut = rest(&mut slices, &mut text).await.unwrap_err();
        assert!(matches!(cut, Cut::Store(store::Error::Stopping)), "{cut}");
        assert!(text.starts_with(b"[{") && text.ends_with(b"}"));
        assert!(next(&mut slices).await.is_none());
    }
}
