//! Time as an argument: the store is handed a clock, so tests hand it their own.

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
}

/// The machine's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        // In this order: if the process is held up in between, the wall clock seems a little behind,
        // never ahead.
        let wall_ms = self.now_ms();
        let boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(boot.tv_nsec).unwrap_or(0);
        let boot_ms = seconds
            .saturating_mul(1_000)
            .saturating_add(nanos / 1_000_000);
        Moment { wall_ms, boot_ms }
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
