//! Leaving processor and disk to those who wait for answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::shared::Shared;

/// Work goes on for so long between two rests.
const STRETCH: Duration = Duration::from_millis(2);
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(20);
/// The clock is looked at after so many bytes.
const BYTES_PER_LOOK: u64 = 16 << 10;

/// Works in stretches: while there are commands, each is followed by a rest of the same length.
pub(super) struct Pace {
    shared: Arc<Shared>,
    /// Rest, and end with the store.
    gentle: bool,
    /// Since the clock was looked at.
    bytes: u64,
    stretch: Instant,
    /// The mailbox's when the stretch began.
    turns: u64,
}

impl Pace {
    /// Rests while others work; ends with the store.
    pub(super) fn gentle(shared: &Arc<Shared>) -> Self {
        Self {
            gentle: true,
            ..Self::full(shared)
        }
    }

    /// As fast as it goes, to the end.
    pub(super) fn full(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            gentle: false,
            bytes: 0,
            stretch: Instant::now(),
            turns: shared.mailbox.turns(),
        }
    }

    /// Told of bytes that went through; says whether to go on.
    pub(super) fn go_on(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        if !self.gentle || self.bytes < BYTES_PER_LOOK {
            return true;
        }
        self.bytes = 0;
        let worked = self.stretch.elapsed();
        if worked >= STRETCH {
            if self.shared.mailbox.turns() != self.turns {
                std::thread::sleep(worked.min(REST_MAX));
            }
            self.turns = self.shared.mailbox.turns();
            self.stretch = Instant::now();
        }
        !self.shared.desk.is_stopping()
    }
}
