//! Finds: many commands, one slice each, and manners between them.
//!
//! A find carries out its slices itself, one after the other, on a thread that others want as well, and in
//! the seat. In between others have their turn, threads too; and while they ask for much, it rests longer
//! than it works.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::command::{Answer, Command, Error, Reply};
use super::handle::Store;
use super::shared::Shared;
use crate::state::find::{Cursor, Query};

/// Patterns are matched for so long at a time, and then for one more key at most.
const NARROW_TIME: Duration = Duration::from_millis(5);
/// A find works for so long between two rests.
const STRETCH: Duration = Duration::from_micros(300);
/// A rest is so many times as long as the work before it.
const REST_FACTOR: u32 = 4;

/// What a find has done since its last rest.
#[derive(Default)]
pub struct FindPace {
    worked: Duration,
    slices: u64,
    /// Commands of others when it began.
    asked: u64,
}

impl Store {
    /// Looks for keys: one slice, from `cursor` on. Patterns are matched here, on a thread of the
    /// runtime that may block, for the owner must not. `pace` is the same for all slices of a find; the
    /// runtime needs its timers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find(
        &self,
        query: Arc<Query>,
        cursor: Cursor,
        pace: &mut FindPace,
    ) -> Result<Reply, Error> {
        pace.give_way(&self.shared).await;
        let find = Command::Find {
            query: Arc::clone(&query),
            cursor: cursor.clone(),
        };
        let began = Instant::now();
        let Reply { sequence, answer } = self.call(find).await?;
        pace.slices += 1;
        // It may have waited as well, for the seat or for what it shows to be released.
        pace.worked += began.elapsed().min(STRETCH);
        let answer = match answer {
            Answer::Slice(slice) if query.has_patterns() => {
                // As many at once as there are processors, and none for long: others have finds too, and
                // a caller that has gone is noticed between two of them. The semaphore is never closed.
                let turn = Arc::clone(&self.shared.narrowing).acquire_owned().await;
                let narrowed = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    let started = Instant::now();
                    query.narrow(slice, &cursor, || started.elapsed() >= NARROW_TIME)
                });
                // It ends without a result only if it panicked or the runtime ends.
                Answer::Slice(narrowed.await.map_err(|_| Error::Stopping)?)
            }
            other => other,
        };
        Ok(Reply { sequence, answer })
    }
}

impl FindPace {
    /// Before each slice but the first: lets others have their turn on this thread, or rests.
    async fn give_way(&mut self, shared: &Shared) {
        let asked = || shared.asked.load(Ordering::Relaxed);
        let is_over = self.worked >= STRETCH;
        if self.slices > 0 {
            match self.rest(asked()) {
                Some(rest) => tokio::time::sleep(rest).await,
                None => {
                    // That nobody has asked may be this find's own doing: Linux often keeps both workers
                    // on one processor, and whoever is to be served by the other one then waits behind
                    // it for milliseconds.
                    std::thread::yield_now();
                    tokio::task::yield_now().await;
                }
            }
        }
        if self.slices == 0 || is_over {
            *self = Self {
                asked: asked(),
                ..Self::default()
            };
        }
    }

    /// How long to rest now, if it has worked long enough, and if others had a command carried out for
    /// every other slice.
    fn rest(&self, asked: u64) -> Option<Duration> {
        let others = asked.wrapping_sub(self.asked);
        let is_busy = others.saturating_mul(2) >= self.slices;
        (is_busy && self.worked >= STRETCH).then(|| self.worked.saturating_mul(REST_FACTOR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_find_rests_if_others_asked_for_something_behind_every_other_slice() {
        let begun = u64::MAX - 1;
        for (others, slices, worked, rest) in [
            (0, 7, STRETCH, None),
            (3, 7, STRETCH, None),
            (4, 7, STRETCH, Some(4 * STRETCH)),
            (100, 7, 2 * STRETCH, Some(8 * STRETCH)),
            (100, 7, STRETCH / 2, None),
            (0, 1, STRETCH, None),
            (1, 1, STRETCH, Some(4 * STRETCH)),
        ] {
            let pace = FindPace {
                worked,
                slices,
                asked: begun,
            };
            let now = begun.wrapping_add(others);
            assert_eq!(pace.rest(now), rest, "{others} {slices} {worked:?}");
        }
    }
}
