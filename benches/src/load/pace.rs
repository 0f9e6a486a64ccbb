//! When requests are due.

/// Says when the next request may leave; all times are nanoseconds of one clock.
#[derive(Debug)]
pub(crate) enum Pace {
    /// At once, until a time has come.
    Until { end: u64 },
    /// At once, until so many are on their way.
    Requests { left: u64 },
    /// At fixed times.
    Open(Schedule),
}

impl Pace {
    /// A closed loop of so many seconds from `now`.
    pub(crate) fn closed(now: u64, seconds: f64) -> Self {
        Self::Until {
            end: now.saturating_add((seconds * 1e9) as u64),
        }
    }

    /// A closed loop of so many requests.
    pub(crate) fn requests(requests: u64) -> Self {
        Self::Requests { left: requests }
    }

    /// `count` requests from `now` on, `rate` a second.
    pub(crate) fn open(now: u64, rate: f64, count: u64) -> Self {
        Self::Open(Schedule {
            start: now,
            interval: 1e9 / rate,
            index: 0,
            count,
        })
    }

    /// Takes the next request if it is due at `now`: since when it is.
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        match self {
            Self::Until { end } => (now < *end).then_some(now),
            Self::Requests { left } => {
                *left = left.checked_sub(1)?;
                Some(now)
            }
            Self::Open(schedule) => {
                let due = schedule.next().filter(|due| *due <= now)?;
                schedule.index += 1;
                Some(due)
            }
        }
    }

    /// When the next request is due, if that is a time to wait for.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        match self {
            Self::Until { .. } | Self::Requests { .. } => None,
            Self::Open(schedule) => schedule.next(),
        }
    }

    /// Whether there is nothing more to come.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        match self {
            Self::Until { end } => now >= *end,
            Self::Requests { left } => *left == 0,
            Self::Open(schedule) => schedule.next().is_none(),
        }
    }
}

/// Times at equal distances. What nobody takes in time stays due: a server that stalls is not
/// spared the requests that would have come meanwhile.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: u64,
    interval: f64,
    index: u64,
    count: u64,
}

impl Schedule {
    fn next(&self) -> Option<u64> {
        let after = (self.index as f64 * self.interval) as u64;
        (self.index < self.count).then(|| self.start.saturating_add(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| pace.take(now)).collect()
    }

    #[test]
    fn an_open_loop_has_its_requests_due_at_equal_distances_and_ends() {
        let mut pace = Pace::open(1_000, 4.0e6, 5);
        assert_eq!(pace.wakes_at(), Some(1_000));
        assert_eq!(taken(&mut pace, 999), [0; 0]);
        assert_eq!(taken(&mut pace, 1_000), [1_000]);
        assert_eq!(pace.wakes_at(), Some(1_250));
        assert_eq!(taken(&mut pace, 1_500), [1_250, 1_500]);
        assert!(!pace.is_over(u64::MAX));
        assert_eq!(taken(&mut pace, u64::MAX), [1_750, 2_000]);
        assert_eq!(pace.wakes_at(), None);
        assert!(pace.is_over(0));
    }

    #[test]
    fn what_a_stall_kept_back_is_still_due_when_it_was_due() {
        let mut pace = Pace::open(0, 1e9, 1_000);
        assert_eq!(taken(&mut pace, 9).len(), 10);
        // Nothing was taken for 490 ns: all of it is due now, each since its own time.
        assert_eq!(taken(&mut pace, 499), (10..500).collect::<Vec<_>>());
    }

    #[test]
    fn times_do_not_drift_over_a_long_run() {
        // A third of a nanosecond too early or late with each would be 100 ms at the end.
        let schedule = Schedule {
            start: 0,
            interval: 1e9 / 3e6,
            index: 300_000_000,
            count: 300_000_001,
        };
        let pace = Pace::Open(schedule);
        assert_eq!(pace.wakes_at(), Some(100_000_000_000));
    }

    #[test]
    fn a_closed_loop_is_due_at_once_and_ends_by_time_or_by_number() {
        let mut pace = Pace::closed(1_000, 1e-6);
        assert_eq!(pace.take(1_000), Some(1_000));
        assert_eq!(pace.take(1_999), Some(1_999));
        assert_eq!(pace.take(2_000), None);
        assert!(pace.is_over(2_000) && !pace.is_over(1_999));
        assert_eq!(pace.wakes_at(), None);
        let mut pace = Pace::requests(2);
        assert_eq!(taken(&mut pace, 7), [7, 7]);
        assert!(pace.is_over(0));
    }
}
