//! Room on the disk: enough is kept for the next compaction and two segments, so that deletes, expiry and
//! compaction always go on.
//!
//! | free bytes | what goes on |
//! | --- | --- |
//! | at least the next compaction and two segments | everything |
//! | less | writes that grow the state are refused (507); a compaction starts, and the older generation goes |
//! | less than the next compaction and a segment | no segment is prepared but for a compaction, which starts at once and gives the older generation up first; what finds no room in the log meanwhile is told to come back (429), and that the disk is full (507) if no compaction is due |
//!
//! A compaction takes the next snapshot, and runs of what was logged if that is more than fits into
//! memory. The snapshot is taken to be as long as the newest one and all records since: what the records
//! replace makes it shorter. A record of the log takes a few bytes more in a snapshot or a run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ekokv_wal::Disk;

use super::logged::Logged;

/// How many segments are kept free for what makes the state smaller.
const SEGMENTS_KEPT: u64 = 2;
/// A record in a snapshot or a run is at most so many bytes longer than in the log: each of them notes
/// where the key ends and which sequence the record has.
const RECORD_GROWTH_BYTES: u64 = 16;

/// What is known of the room on the disk.
#[derive(Debug)]
pub(super) struct Space {
    segment_bytes: u64,
    /// Bytes that were free when it was last looked.
    free: AtomicU64,
    /// Length of the newest snapshot.
    snapshot: AtomicU64,
    /// A compaction waits for a segment to go on in.
    awaited: AtomicBool,
    /// No compaction is under way, or due, that could give room for the next segment.
    stuck: AtomicBool,
}

impl Space {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            free: AtomicU64::new(u64::MAX),
            snapshot: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
        }
    }

    /// Looks how much is free. A disk that does not say is taken to have enough: it will say so when
    /// it is full.
    pub(super) fn sample(&self, disk: &dyn Disk) {
        let free = disk.free_bytes().unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
    }

    /// The newest snapshot takes so many bytes.
    pub(super) fn set_snapshot(&self, snapshot_bytes: u64) {
        self.snapshot.store(snapshot_bytes, Ordering::Relaxed);
    }

    /// How many bytes are missing for a write that grows the state; 0 if none are.
    pub(super) fn missing(&self, logged: &Logged) -> u64 {
        let segments = SEGMENTS_KEPT.saturating_mul(self.segment_bytes);
        self.compaction_bytes(logged)
            .saturating_add(segments)
            .saturating_sub(self.free.load(Ordering::Relaxed))
    }

    /// A compaction, which gives room back, waits for a segment, or does no more.
    pub(super) fn await_segment(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Relaxed);
    }

    /// Says whether there is no room for the next segment, and no compaction that could give some is under
    /// way or due.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Whether there was no way out when the compactor last looked.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Whether a segment can be prepared and the next compaction still fits, or is waited for by the
    /// compaction that will find out.
    pub(super) fn has_segment(&self, logged: &Logged) -> bool {
        self.awaited.load(Ordering::Relaxed) || !self.is_scarce(logged)
    }

    /// Whether not even the next compaction fits, with the segment that it ends.
    pub(super) fn is_scarce(&self, logged: &Logged) -> bool {
        self.compaction_bytes(logged)
            .saturating_add(self.segment_bytes)
            > self.free.load(Ordering::Relaxed)
    }

    /// How many bytes are missing for a rescue, which writes the state twice; 0 if none are.
    pub(super) fn missing_for_rescue(&self, logged: &Logged) -> u64 {
        self.compaction_bytes(logged)
            .saturating_mul(2)
            .saturating_add(self.segment_bytes)
            .saturating_sub(self.free.load(Ordering::Relaxed))
    }

    fn compaction_bytes(&self, logged: &Logged) -> u64 {
        let logged = logged.unfolded();
        let growth = logged.records.saturating_mul(RECORD_GROWTH_BYTES);
        let folded = logged.records_bytes.saturating_add(growth);
        // A run in memory takes a segment.
        let runs = if folded >= self.segment_bytes {
            folded
        } else {
            0
        };
        self.snapshot
            .load(Ordering::Relaxed)
            .saturating_add(folded)
            .saturating_add(runs)
    }
}

#[cfg(test)]
mod tests {
    use ekokv_wal::SimDisk;

    use super::super::logged::Amounts;
    use super::*;

    #[test]
    fn room_is_kept_for_the_next_compaction_and_two_segments() {
        let disk = SimDisk::new();
        let logged = Logged::default();
        let space = Space::new(100);
        space.sample(&disk);
        assert_eq!(space.missing(&logged), 0);
        let amounts = |records, records_bytes| Amounts {
            records,
            records_bytes,
            ..Amounts::default()
        };
        space.set_snapshot(1_000);
        logged.begin(amounts(0, 30));
        logged.add(amounts(1, 4));
        for (free, missing, segment) in [
            (1_250, 0, true),
            (1_249, 1, true),
            (1_150, 100, true),
            (1_149, 101, false),
            (1_050, 200, false),
        ] {
            disk.set_capacity(Some(free));
            space.sample(&disk);
            assert_eq!(space.missing(&logged), missing, "{free}");
            assert_eq!(space.has_segment(&logged), segment, "{free}");
            assert_eq!(space.is_scarce(&logged), !segment, "{free}");
        }
        // What a rotation hands over to a compaction is counted until it is folded.
        assert_eq!(logged.take(), amounts(1, 4));
        assert_eq!(logged.so_far(), Amounts::default());
        assert_eq!(space.missing(&logged), 200);
        // As much again in runs, once it does not fit into memory.
        logged.add(amounts(0, 50));
        assert_eq!(space.missing(&logged), 1_400 - 1_050);
        logged.fold(amounts(1, 34));
        assert_eq!(logged.unfolded(), amounts(0, 50));
        assert_eq!(space.missing(&logged), 1_250 - 1_050);
    }
}
