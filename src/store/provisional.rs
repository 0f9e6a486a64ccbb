//! Deadlines that rest on a time in doubt.
//!
//! At a start with a leap that is not confirmed yet (see `store_clock`) a life of a minute counts from
//! the time that readers see. If the leap is confirmed, that was right, whatever happens in between. If
//! it is taken back, the deadline would be too far ahead by the leap, so it is moved back by that much:
//! the key has lived and goes on to live for its minute. A deadline that was given as an absolute time
//! is never moved.
//!
//! Which deadlines these are is known to the process alone. Where it ends in the doubt, and the clock is
//! set right before the next start, they stay as they are: the key lives longer than it was told to,
//! which is better than being lost.

use super::store_clock::{Point, STEP_MS};

/// What was written under one leap.
struct Claim {
    course: Point,
    marks: Marks,
    /// By how much its deadlines are to be moved back, once that is known.
    back_ms: u64,
}

/// The sequences of changes whose deadlines are in doubt.
#[derive(Default)]
pub(super) struct Provisional {
    claims: Vec<Claim>,
    settled: bool,
    /// All deadlines before this one, and the entries with this one and a version below, have been
    /// seen to.
    seen_to: (u64, u64),
}

impl Provisional {
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether it is known by how much deadlines are to be moved back, and some are.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The deadline of this change counts from a time of this course.
    pub(super) fn note(&mut self, course: Point, sequence: u64) {
        let known = self
            .claims
            .last()
            .is_some_and(|claim| claim.course.ahead_of(course).unsigned_abs() <= STEP_MS);
        if !known {
            self.claims.push(Claim {
                course,
                marks: Marks::new(sequence),
                back_ms: 0,
            });
        }
        if let Some(claim) = self.claims.last_mut() {
            claim.marks.insert(sequence);
        }
    }

    /// An entry has a new version and the deadline that it had.
    pub(super) fn follow(&mut self, old_version: u64, version: u64) {
        let holds = |claim: &&mut Claim| claim.marks.contains(old_version);
        if let Some(claim) = self.claims.iter_mut().find(holds) {
            claim.marks.insert(version);
        }
    }

    /// The doubt is over, and readers see a time of this course.
    pub(super) fn settle(&mut self, course: Point) {
        self.claims.retain_mut(|claim| {
            claim.back_ms = u64::try_from(claim.course.ahead_of(course)).unwrap_or(0);
            claim.back_ms > STEP_MS
        });
        self.settled = !self.claims.is_empty();
        // A deadline that counts from a time is behind it.
        let first = self.claims.iter().map(|claim| claim.course.time()).min();
        self.seen_to = (first.unwrap_or(u64::MAX), 0);
    }

    /// Where entries begin whose deadline is still to be moved back: a deadline and a version.
    pub(super) fn begin(&self) -> (u64, u64) {
        self.seen_to
    }

    /// All before this place is seen to.
    pub(super) fn go_on_from(&mut self, deadline: u64, version: u64) {
        self.seen_to = (deadline, version);
    }

    /// By how much the deadline of an entry with this version is to be moved back.
    pub(super) fn back_ms(&self, version: u64) -> Option<u64> {
        let mut claims = self.claims.iter().filter(|_| self.settled);
        let claim = claims.find(|claim| claim.marks.contains(version))?;
        Some(claim.back_ms)
    }
}

/// Sequences, a bit for each from the first on: a grace of heavy writing takes a few megabytes.
struct Marks {
    first: u64,
    bits: Vec<u64>,
}

impl Marks {
    fn new(first: u64) -> Self {
        Self {
            first,
            bits: Vec::new(),
        }
    }

    fn place(&self, sequence: u64) -> Option<(usize, u64)> {
        let offset = sequence.checked_sub(self.first)?;
        Some((usize::try_from(offset / 64).ok()?, 1 << (offset % 64)))
    }

    /// Adds a sequence that is not below the first.
    fn insert(&mut self, sequence: u64) {
        let Some((word, bit)) = self.place(sequence) else {
            return;
        };
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
        }
    }

    fn contains(&self, sequence: u64) -> bool {
        self.place(sequence)
            .and_then(|(word, bit)| Some(self.bits.get(word)? & bit != 0))
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_hold_what_was_marked_and_nothing_else() {
        let mut marks = Marks::new(1_000);
        for sequence in [1_000, 1_063, 1_064, 5_000] {
            marks.insert(sequence);
        }
        let held: Vec<u64> = (0..10_000).filter(|one| marks.contains(*one)).collect();
        assert_eq!(held, [1_000, 1_063, 1_064, 5_000]);
        assert!(!marks.contains(u64::MAX));
    }

    #[test]
    fn each_deadline_is_moved_back_by_the_leap_it_was_written_under() {
        let course = |ahead: u64| Point::new(1_000_000_000 + ahead, 500);
        let mut provisional = Provisional::default();
        provisional.note(course(9_000_000), 7);
        provisional.note(course(9_000_001), 8);
        provisional.note(course(400_000), 10);
        provisional.follow(7, 11);
        provisional.follow(9, 12);
        assert_eq!(provisional.back_ms(7), None, "not known yet");
        // The same course, looked at later.
        provisional.settle(Point::new(1_000_000_000 + 60_000, 60_500));
        assert!(provisional.is_settled());
        for (version, back) in [
            (7, Some(9_000_000)),
            (8, Some(9_000_000)),
            (9, None),
            (10, Some(400_000)),
            (11, Some(9_000_000)),
            (12, None),
        ] {
            assert_eq!(provisional.back_ms(version), back, "{version}");
        }
    }

    #[test]
    fn a_leap_that_is_confirmed_moves_nothing() {
        let mut provisional = Provisional::default();
        provisional.note(Point::new(1_000_000, 500), 7);
        provisional.settle(Point::new(1_600_000, 600_500));
        assert!(provisional.is_empty() && !provisional.is_settled());
    }
}
