//! Room on the disk: enough is kept for the next snapshot and two segments, so that deletes, expiry and
//! compaction always go on.
//!
//! | free bytes | what goes on |
//! | --- | --- |
//! | at least the next snapshot and two segments | everything |
//! | less | writes that grow the state are refused (507); a compaction starts, and the older generation goes |
//! | less than the next snapshot | no segment is prepared; compaction gives the older generation up first |
//!
//! The next snapshot is taken to be as long as the newest one and all records since: what the records
//! replace makes it shorter.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ekokv_wal::Disk;

use super::logged::Logged;

/// How many segments are kept free for what makes the state smaller.
const SEGMENTS_KEPT: u64 = 2;

/// What is known of the room on the disk.
#[derive(Debug)]
pub(super) struct Space {
    segment_bytes: u64,
    /// Bytes that were free when it was last looked.
    free: AtomicU64,
    /// Length of the next snapshot without what was logged since the last rotation for it.
    expected: AtomicU64,
    /// A compaction waits for a segment to go on in.
    awaited: AtomicBool,
}

impl Space {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            free: AtomicU64::new(u64::MAX),
            expected: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
        }
    }

    /// Looks how much is free. A disk that does not say is taken to have enough: it will say so when
    /// it is full.
    pub(super) fn sample(&self, disk: &dyn Disk) {
        let free = disk.free_bytes().unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
    }

    /// The newest snapshot, and what is owed to it, take so many bytes.
    pub(super) fn expect(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes are missing for a write that grows the state; 0 if none are.
    pub(super) fn missing(&self, logged: &Logged) -> u64 {
        let segments = SEGMENTS_KEPT.saturating_mul(self.segment_bytes);
        self.snapshot_bytes(logged)
            .saturating_add(segments)
            .saturating_sub(self.free.load(Ordering::Relaxed))
    }

    /// A compaction, which gives room back, waits for a segment, or does no more.
    pub(super) fn await_segment(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Relaxed);
    }

    /// Whether a segment can be prepared and the next snapshot still fits, or is waited for by the
    /// compaction that will find out.
    pub(super) fn has_segment(&self, logged: &Logged) -> bool {
        self.awaited.load(Ordering::Relaxed)
            || self
                .snapshot_bytes(logged)
                .saturating_add(self.segment_bytes)
                <= self.free.load(Ordering::Relaxed)
    }

    /// Whether not even the next snapshot fits.
    pub(super) fn is_scarce(&self, logged: &Logged) -> bool {
        self.snapshot_bytes(logged) > self.free.load(Ordering::Relaxed)
    }

    fn snapshot_bytes(&self, logged: &Logged) -> u64 {
        let expected = self.expected.load(Ordering::Relaxed);
        expected.saturating_add(logged.so_far().records_bytes)
    }
}

#[cfg(test)]
mod tests {
    use ekokv_wal::SimDisk;

    use super::*;
    use crate::store::logged::Amounts;

    #[test]
    fn room_is_kept_for_the_next_snapshot_and_two_segments() {
        let disk = SimDisk::new();
        let logged = Logged::default();
        let space = Space::new(100);
        space.sample(&disk);
        assert_eq!(space.missing(&logged), 0);
        space.expect(1_000);
        logged.add(Amounts {
            records_bytes: 50,
            ..Amounts::default()
        });
        for (free, missing, segment, scarce) in [
            (1_250, 0, true, false),
            (1_249, 1, true, false),
            (1_150, 100, true, false),
            (1_149, 101, false, false),
            (1_050, 200, false, false),
            (1_049, 201, false, true),
        ] {
            disk.set_capacity(Some(free));
            space.sample(&disk);
            assert_eq!(space.missing(&logged), missing, "{free}");
            assert_eq!(space.has_segment(&logged), segment, "{free}");
            assert_eq!(space.is_scarce(&logged), scarce, "{free}");
        }
    }
}
