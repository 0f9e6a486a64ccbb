//! The budget of `--max-inflight-bytes`: memory for bodies being read and answers waiting to leave.
//!
//! - A reservation is made before the memory is taken and given back when it is dropped.
//! - The reservations of a budget never add up to more than its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies and answers up to this length are not counted: the cap on connections bounds their sum,
/// and the hot path touches no shared counter.
pub(super) const UNCOUNTED_BYTES_MAX: usize = 4 * 1024;

/// Bytes that may be reserved.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub(super) fn new(limit: u64) -> Arc<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// The most that can be reserved at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Reserves memory for `bytes`; `None` if the budget has not so much left.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation { held: None };
        reservation.grow(self, bytes).then_some(reservation)
    }

    /// Takes `bytes` from the budget, or nothing.
    fn take(&self, bytes: usize) -> bool {
        // Only the sum matters, no other memory is published by it: relaxed is enough.
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .is_ok()
    }
}

/// A part of the budget; dropping it gives the part back.
#[derive(Debug, Default)]
pub struct Reservation {
    held: Option<(Arc<Budget>, usize)>,
}

impl Reservation {
    /// Makes it cover `bytes` in all; whether it does.
    pub(super) fn grow(&mut self, budget: &Arc<Budget>, bytes: usize) -> bool {
        let held = self.held.as_ref().map_or(0, |(_, held)| *held);
        if bytes <= held.max(UNCOUNTED_BYTES_MAX) {
            return true;
        }
        let taken = budget.take(bytes.saturating_sub(held));
        if taken {
            match &mut self.held {
                Some((_, held)) => *held = bytes,
                None => self.held = Some((Arc::clone(budget), bytes)),
            }
        }
        taken
    }

    /// Whether it holds a part of the budget at all.
    pub(super) fn is_counted(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((budget, bytes)) = self.held.take() {
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(budget: &Arc<Budget>) -> usize {
        budget.used.load(Ordering::Relaxed)
    }

    #[test]
    fn reservations_never_add_up_to_more_than_the_limit() {
        let budget = Budget::new(20_000);
        let first = budget.reserve(12_000).unwrap();
        assert!(budget.reserve(8_001).is_none());
        assert_eq!(used(&budget), 12_000);
        let second = budget.reserve(8_000).unwrap();
        assert!(budget.reserve(5_000).is_none());
        drop(first);
        assert_eq!(used(&budget), 8_000);
        assert!(budget.reserve(usize::MAX).is_none());
        drop(second);
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn a_reservation_grows_in_place_or_not_at_all() {
        let budget = Budget::new(20_000);
        let mut reservation = Reservation::default();
        assert!(reservation.grow(&budget, UNCOUNTED_BYTES_MAX));
        assert_eq!(used(&budget), 0);
        assert!(reservation.grow(&budget, 5_000));
        assert!(reservation.grow(&budget, 19_000));
        assert!(reservation.grow(&budget, 6_000));
        assert_eq!(used(&budget), 19_000);
        assert!(!reservation.grow(&budget, 20_001));
        assert_eq!(used(&budget), 19_000);
        drop(reservation);
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn small_ones_are_not_counted() {
        let budget = Budget::new(0);
        let reservation = budget.reserve(UNCOUNTED_BYTES_MAX).unwrap();
        assert!(!reservation.is_counted());
        assert!(budget.reserve(UNCOUNTED_BYTES_MAX + 1).is_none());
    }
}
