//! How much was logged: what a start would have to read, and what compaction is proportional to.

use std::ops::{Add, AddAssign};
use std::sync::atomic::{AtomicU64, Ordering};

/// Amounts of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amounts {
    /// Records.
    pub(super) records: u64,
    /// Bytes of these records.
    pub(super) records_bytes: u64,
    /// Bytes that they take in segments.
    pub(super) disk_bytes: u64,
    /// Segments that were ended.
    pub(super) segments: u64,
}

impl Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            records_bytes: self.records_bytes.saturating_add(other.records_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            segments: self.segments.saturating_add(other.segments),
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What was logged, since somebody last took note and since a snapshot last had all of it: the committer
/// adds, others look on.
///
/// All counters ascend and what is asked for is a difference, so what goes from one hand to another is
/// missing at no moment: a segment that was prepared in its room would be missing to the compaction.
#[derive(Debug, Default)]
pub(super) struct Logged {
    ever: Counters,
    /// What somebody took note of.
    noted: Counters,
    /// What is in a snapshot.
    folded: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    records: AtomicU64,
    records_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    segments: AtomicU64,
}

impl Counters {
    fn add(&self, amounts: Amounts) {
        self.records.fetch_add(amounts.records, Ordering::Release);
        self.records_bytes
            .fetch_add(amounts.records_bytes, Ordering::Release);
        self.disk_bytes
            .fetch_add(amounts.disk_bytes, Ordering::Release);
        self.segments.fetch_add(amounts.segments, Ordering::Release);
    }

    /// By how much they are ahead of others.
    fn beyond(&self, others: &Self) -> Amounts {
        // The others first, so that what they follow has come.
        let ahead = |counter: &AtomicU64, other: &AtomicU64| {
            let other = other.load(Ordering::Acquire);
            counter.load(Ordering::Relaxed).saturating_sub(other)
        };
        Amounts {
            records: ahead(&self.records, &others.records),
            records_bytes: ahead(&self.records_bytes, &others.records_bytes),
            disk_bytes: ahead(&self.disk_bytes, &others.disk_bytes),
            segments: ahead(&self.segments, &others.segments),
        }
    }
}

impl Logged {
    /// Begins with what is in the log and in no snapshot yet; it has been taken note of.
    pub(super) fn begin(&self, unfolded: Amounts) {
        self.ever.add(unfolded);
        self.noted.add(unfolded);
    }

    /// Adds a batch.
    pub(super) fn add(&self, amounts: Amounts) {
        self.ever.add(amounts);
    }

    /// So much was logged since [`Logged::take`].
    pub(super) fn so_far(&self) -> Amounts {
        self.ever.beyond(&self.noted)
    }

    /// Takes note, and begins at nothing. Only the committer calls it, between two batches.
    pub(super) fn take(&self) -> Amounts {
        let amounts = self.so_far();
        self.noted.add(amounts);
        amounts
    }

    /// So much of what was taken note of is in a snapshot now.
    pub(super) fn fold(&self, amounts: Amounts) {
        self.folded.add(amounts);
    }

    /// So much is in the log and in no snapshot.
    pub(super) fn unfolded(&self) -> Amounts {
        self.ever.beyond(&self.folded)
    }
}
