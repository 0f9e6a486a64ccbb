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

/// What was logged since somebody last took note: the committer adds, others look on.
#[derive(Debug, Default)]
pub(super) struct Logged {
    records: AtomicU64,
    records_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    segments: AtomicU64,
}

impl Logged {
    /// Adds a batch.
    pub(super) fn add(&self, amounts: Amounts) {
        self.records.fetch_add(amounts.records, Ordering::Relaxed);
        self.records_bytes
            .fetch_add(amounts.records_bytes, Ordering::Relaxed);
        self.disk_bytes
            .fetch_add(amounts.disk_bytes, Ordering::Relaxed);
        self.segments.fetch_add(amounts.segments, Ordering::Relaxed);
    }

    /// So much was logged.
    pub(super) fn so_far(&self) -> Amounts {
        Amounts {
            records: self.records.load(Ordering::Relaxed),
            records_bytes: self.records_bytes.load(Ordering::Relaxed),
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
            segments: self.segments.load(Ordering::Relaxed),
        }
    }

    /// Takes note, and begins at nothing. Only the committer calls it, between two batches.
    pub(super) fn take(&self) -> Amounts {
        Amounts {
            records: self.records.swap(0, Ordering::Relaxed),
            records_bytes: self.records_bytes.swap(0, Ordering::Relaxed),
            disk_bytes: self.disk_bytes.swap(0, Ordering::Relaxed),
            segments: self.segments.swap(0, Ordering::Relaxed),
        }
    }
}
