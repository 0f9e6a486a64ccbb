//! Keeps store time for the owner: reads the clocks, and says once what has happened to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::Shared;
use super::store_clock::{Event, Point, StoreClock, Time};
use crate::clock::Clock;

pub(super) struct Timekeeper {
    clock: Arc<dyn Clock>,
    store_clock: StoreClock,
}

impl Timekeeper {
    /// Begins behind a log that ends at `last`; `None` if there is no log yet.
    pub(super) fn new(clock: Arc<dyn Clock>, grace_ms: u64, last: Option<u64>) -> Self {
        let store_clock = StoreClock::new(grace_ms, last, clock.now());
        Self { clock, store_clock }
    }

    /// Store time as of the last look at the clocks.
    pub(super) fn time(&self) -> Time {
        self.store_clock.time()
    }

    /// Looks at the clocks.
    pub(super) fn tell(&mut self, shared: &Shared) -> Time {
        let was_in_doubt = self.in_doubt();
        let time = self.store_clock.tell(self.clock.now());
        for event in self.store_clock.events() {
            report(event);
        }
        let in_doubt = self.in_doubt();
        if in_doubt || was_in_doubt {
            shared.clock_in_doubt.store(in_doubt, Ordering::Relaxed);
        }
        time
    }

    /// Whether there is a leap that may yet be taken back.
    pub(super) fn in_doubt(&self) -> bool {
        self.store_clock.in_doubt()
    }

    /// The course of the time that readers see.
    pub(super) fn course(&self) -> Point {
        self.store_clock.course()
    }

    /// Whether the time that readers see may yet be taken back.
    pub(super) fn may_run_back(&self) -> bool {
        self.store_clock.may_run_back()
    }
}

fn report(event: Event) {
    match event {
        Event::Leapt(ahead_ms) => tracing::warn!(
            ahead_ms,
            "the wall clock is ahead by more than anything confirms; it counts once that has held for \
             --clock-grace"
        ),
        Event::TakenBack => tracing::warn!(
            "the wall clock came back before --clock-grace was over; its leap does not count"
        ),
        Event::Accepted => {
            tracing::warn!("the wall clock's leap has held for --clock-grace, and counts now");
        }
        Event::Behind(behind_ms) => tracing::warn!(
            behind_ms,
            "the wall clock is behind the store's time, which never runs back and goes on a hundredth \
             slower"
        ),
        Event::CaughtUp => tracing::info!("the wall clock has caught up with the store's time"),
    }
}
