//! Leaving processor and disk to those who wait for answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::store::shared::Shared;

/// Work goes on for so long between two rests.
const STRETCH: Duration = Duration::from_micros(500);
/// A rest is so many times as long as the work before it.
const REST_FACTOR: u32 = 4;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(20);
/// The clock is looked at after so many bytes.
const BYTES_PER_LOOK: u64 = 8 << 10;

/// What of a busy processor this thread gets: about a tenth of what those get that answer requests.
const NICENESS: i32 = 10;

/// Lets other threads run before this one, and before those that it starts. On Linux niceness belongs to
/// a thread.
pub(super) fn give_way() {
    // Refused, it works on as it is.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
}

/// Works in stretches: while there are commands, each is followed by a rest of four times its length;
/// without, other threads have their turn.
pub(super) struct Pace {
    shared: Arc<Shared>,
    /// Since the clock was looked at.
    bytes: u64,
    stretch: Instant,
    /// The owner's when the stretch began.
    turns: u64,
    /// It is given up then.
    until: Option<Instant>,
}

impl Pace {
    /// As fast as it goes, for so long.
    pub(super) fn until(shared: &Arc<Shared>, time: Duration) -> Self {
        Self {
            until: Some(Instant::now() + time),
            ..Self::gentle(shared)
        }
    }

    /// Rests while others work; ends with the store.
    pub(super) fn gentle(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            bytes: 0,
            stretch: Instant::now(),
            turns: shared.turns.load(Ordering::Relaxed),
            until: None,
        }
    }

    /// Told of bytes that went through; says whether to go on.
    pub(super) fn go_on(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        if self.bytes < BYTES_PER_LOOK {
            return true;
        }
        self.bytes = 0;
        if self.shared.failed().is_some() {
            return false;
        }
        if let Some(until) = self.until {
            return Instant::now() < until;
        }
        let worked = self.stretch.elapsed();
        if worked >= STRETCH {
            if self.shared.turns.load(Ordering::Relaxed) != self.turns {
                std::thread::sleep(worked.saturating_mul(REST_FACTOR).min(REST_MAX));
            } else {
                // Those who would ask may be waiting for this processor.
                std::thread::yield_now();
            }
            self.turns = self.shared.turns.load(Ordering::Relaxed);
            self.stretch = Instant::now();
        }
        !self.shared.desk.is_stopping()
    }
}
