//! Time as an argument: the store is handed a clock, so tests hand it their own.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// What a clock shows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock: milliseconds since the Unix epoch. It may be set, forwards or backwards.
    pub wall_ms: u64,
    /// Milliseconds since some moment, which no setting of a clock changes: it goes on while the
    /// machine sleeps, and may begin again when a process starts.
    pub boot_ms: u64,
}

/// Where the store takes the time from.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, as of now.
    fn now(&self) -> Moment;

    /// The wall clock alone: milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64 {
        self.now().wall_ms
    }

    /// The same, but for some ten milliseconds that it may be behind; it costs less.
    fn about_ms(&self) -> u64 {
        self.now_ms()
    }
}

/// The machine's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

thread_local! {
    /// What this thread was shown last: a busy store asks a hundred times a millisecond.
    static LAST: Cell<Moment> = const {
        Cell::new(Moment {
            wall_ms: 0,
            boot_ms: 0,
        })
    };
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        // In this order: if the process is held up in between, the wall clock seems a little behind,
        // never ahead.
        let wall_ms = self.now_ms();
        // While the wall clock shows the same millisecond the other one has gone on by one at most. Only a
        // clock that is set back to the very millisecond of the last look repeats it, until it goes on; one that
        // reads as 0 may do so for long.
        let last = LAST.get();
        if last.wall_ms == wall_ms && wall_ms > 0 {
            return last;
        }
        let boot_ms = milliseconds(ClockId::Boottime);
        let now = Moment { wall_ms, boot_ms };
        LAST.set(now);
        now
    }

    fn about_ms(&self) -> u64 {
        milliseconds(ClockId::RealtimeCoarse)
    }

    fn now_ms(&self) -> u64 {
        // A clock before 1970 reads as 0; store time, which never runs back, goes on all the same.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

/// A clock that reads as 0 before its beginning.
fn milliseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000)
        .saturating_add(nanos / 1_000_000)
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<Moment>);

impl ManualClock {
    /// A clock that shows `now_ms` milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        let moment = Moment {
            wall_ms: now_ms,
            boot_ms: 1_000,
        };
        Self(Mutex::new(moment))
    }

    /// Sets the wall clock, forwards or backwards, while no time passes.
    pub fn set(&self, now_ms: u64) {
        self.change(|moment| moment.wall_ms = now_ms);
    }

    /// Lets `ms` milliseconds pass.
    pub fn advance(&self, ms: u64) {
        self.change(|moment| {
            moment.wall_ms = moment.wall_ms.saturating_add(ms);
            moment.boot_ms = moment.boot_ms.saturating_add(ms);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Moment)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_last_is_no_older_than_a_millisecond() {
        let mut walls = std::collections::BTreeSet::new();
        while walls.len() < 20 {
            let before = milliseconds(ClockId::Boottime);
            let Moment { wall_ms, boot_ms } = SystemClock.now();
            let after = milliseconds(ClockId::Boottime);
            assert!(boot_ms + 2 >= before && boot_ms <= after, "{boot_ms}");
            walls.insert(wall_ms);
        }
    }

    #[test]
    fn about_now_is_not_ahead() {
        for _ in 0..1_000 {
            let about = SystemClock.about_ms();
            let now = SystemClock.now_ms();
            assert!(about <= now && about + 10_000 > now, "{about} {now}");
        }
    }
}
