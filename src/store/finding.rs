//! Finds: many commands, one slice each, and manners between them.
//!
//! A find carries out its slices itself, one after the other, on a thread that others want as well, and in
//! the seat. In between others have their turn; and while they ask for much, it rests as long as it works.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::command::{Answer, Command, Error, Reply};
use super::handle::Store;
use super::shared::Shared;
use crate::state::find::{Cursor, Query};

/// Patterns are matched for so long at a time, and then for one more key at most.
const NARROW_TIME: Duration = Duration::from_millis(5);
/// A find goes on for so long between two rests.
const STRETCH: Duration = Duration::from_micros(300);
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(10);

/// How long a find has been at work since its last rest.
#[derive(Default)]
pub struct Stretch(Option<Since>);

struct Since {
    began: Instant,
    /// The owner's turns then.
    turns: u64,
    /// Slices since then, each of which took a turn.
    slices: u64,
}

impl Store {
    /// Looks for keys: one slice, from `cursor` on. Patterns are matched here, on a thread of the
    /// runtime that may block, for the owner must not. `stretch` is the same for all slices of a find.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find(
        &self,
        query: Arc<Query>,
        cursor: Cursor,
        stretch: &mut Stretch,
    ) -> Result<Reply, Error> {
        stretch.give_way(&self.shared).await;
        let find = Command::Find {
            query: Arc::clone(&query),
            cursor: cursor.clone(),
        };
        let Reply { sequence, answer } = self.call(find).await?;
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

impl Stretch {
    /// Before each slice but the first: lets others have their turn on this thread, or rests.
    async fn give_way(&mut self, shared: &Shared) {
        let turns = || shared.turns.load(Ordering::Relaxed);
        if let Some(since) = &mut self.0 {
            let worked = since.began.elapsed();
            if worked < STRETCH {
                since.slices += 1;
                return tokio::task::yield_now().await;
            }
            if since.is_busy(turns()) {
                tokio::time::sleep((4 * worked).min(REST_MAX)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        self.0 = Some(Since {
            began: Instant::now(),
            turns: turns(),
            slices: 1,
        });
    }
}

impl Since {
    /// Whether others had a turn behind at least every other slice. Those that found the seat taken are
    /// served in one turn.
    fn is_busy(&self, turns: u64) -> bool {
        let others = turns.wrapping_sub(self.turns).saturating_sub(self.slices);
        others.saturating_mul(2) >= self.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(slices: u64) -> Since {
        Since {
            began: Instant::now(),
            turns: u64::MAX,
            slices,
        }
    }

    #[test]
    fn a_find_rests_if_others_had_a_turn_behind_every_other_slice() {
        for (turns_of_all, slices, is_busy) in [
            (7, 7, false),
            (10, 7, false),
            (11, 7, true),
            (100, 7, true),
            (1, 1, false),
            (2, 1, true),
            (0, 1, false),
        ] {
            let now = u64::MAX.wrapping_add(turns_of_all);
            assert_eq!(
                since(slices).is_busy(now),
                is_busy,
                "{turns_of_all} {slices}"
            );
        }
    }
}
