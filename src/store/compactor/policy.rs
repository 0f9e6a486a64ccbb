//! When to compact: in proportion to what was logged, so that what is written stays in proportion too.

use std::time::Duration;

use crate::store::logged::Amounts;

/// Growth alone starts no compaction before this much was logged.
const GROWTH_BYTES_MIN: u64 = 64 << 20;
/// With more waiting segments than these a compaction starts, if it is in proportion: restarts leave
/// small ones behind.
const WAITING_SEGMENTS_MAX: u64 = 8;
/// After the interval a compaction starts if more than one part in so many of the snapshot was logged.
const INTERVAL_PART: u64 = 10;
/// What was logged so long ago is compacted at the next interval, however little it is.
const LOG_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// While space is short a compaction may start so often for less than that part.
const SHORT_INTERVAL: Duration = Duration::from_secs(5);
/// At a stop less than this is left to the next start, which reads it in a moment.
const STOP_BYTES_MIN: u64 = 1 << 20;
/// More than this to read and write would keep a stop waiting.
const STOP_BYTES_MAX: u64 = 256 << 20;

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// What was logged since the newest snapshot ends.
    pub(super) logged: Amounts,
    /// Length of that snapshot in bytes, 0 if there is none.
    pub(super) snapshot_bytes: u64,
    /// Since the last compaction, or the start.
    pub(super) elapsed: Duration,
    /// Damage was met that compaction folds away.
    pub(super) repair: bool,
    /// The last compaction came to nothing.
    pub(super) failed: bool,
    /// Space is short, and compaction gives some back.
    pub(super) space_short: bool,
    /// There is not even room for the next segment: soon nothing is written any more.
    pub(super) stuck: bool,
}

/// `--snapshot-interval` and `--snapshot-growth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// So often it is asked whether a compaction is worthwhile.
    pub interval: Duration,
    /// Compact when so many hundredths of the snapshot's length were logged.
    pub growth_percent: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15 * 60),
            growth_percent: 50,
        }
    }
}

impl Schedule {
    fn grown(&self, bytes: u64, snapshot_bytes: u64) -> bool {
        bytes > (snapshot_bytes / 100).saturating_mul(self.growth_percent)
    }

    /// Why a compaction is due now.
    pub(super) fn due(&self, facts: &Facts) -> Option<&'static str> {
        let Amounts {
            records_bytes,
            disk_bytes,
            segments,
            ..
        } = facts.logged;
        if facts.repair {
            return Some("damage is folded away");
        }
        if records_bytes == 0 {
            return None;
        }
        let part = records_bytes > facts.snapshot_bytes / INTERVAL_PART;
        if facts.failed {
            return Some("the last one came to nothing");
        }
        if facts.stuck || facts.space_short && (part || facts.elapsed >= SHORT_INTERVAL) {
            return Some("space is short");
        }
        if records_bytes > GROWTH_BYTES_MIN && self.grown(records_bytes, facts.snapshot_bytes) {
            return Some("the log has grown");
        }
        if segments > WAITING_SEGMENTS_MAX && self.grown(disk_bytes, facts.snapshot_bytes) {
            return Some("many segments wait");
        }
        if facts.elapsed >= self.interval && (part || facts.elapsed >= LOG_AGE_MAX) {
            return Some("the interval is over");
        }
        None
    }

    /// Whether a compaction at a stop spares the next start more than it costs now.
    pub(super) fn due_at_stop(&self, facts: &Facts) -> bool {
        let records_bytes = facts.logged.records_bytes;
        let work = facts
            .snapshot_bytes
            .saturating_add(facts.logged.disk_bytes)
            .saturating_add(records_bytes);
        records_bytes >= STOP_BYTES_MIN
            && records_bytes > facts.snapshot_bytes / INTERVAL_PART
            && work <= STOP_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SCHEDULE: Schedule = Schedule {
        interval: Duration::from_secs(900),
        growth_percent: 50,
    };

    fn facts(records_mib: u64, segments: u64, snapshot_mib: u64, minutes: u64) -> Facts {
        let records_bytes = records_mib * MIB;
        Facts {
            logged: Amounts {
                records: records_mib,
                records_bytes,
                disk_bytes: 2 * records_bytes,
                segments,
            },
            snapshot_bytes: snapshot_mib * MIB,
            elapsed: Duration::from_secs(60 * minutes),
            repair: false,
            failed: false,
            space_short: false,
            stuck: false,
        }
    }

    #[test]
    fn a_compaction_is_due_in_proportion_to_what_was_logged() {
        for (facts, due) in [
            // Growth: half the snapshot, and 64 MiB.
            (facts(64, 1, 0, 0), None),
            (facts(65, 1, 0, 0), Some("the log has grown")),
            (facts(65, 1, 131, 0), None),
            (facts(66, 1, 131, 0), Some("the log has grown")),
            (facts(1_000, 8, 4_000, 0), None),
            // Segments: more than eight, and in proportion.
            (facts(1, 8, 0, 0), None),
            (facts(1, 9, 0, 0), Some("many segments wait")),
            (facts(10, 9, 41, 0), None),
            // The interval: a tenth of the snapshot, or a day.
            (facts(1, 1, 0, 14), None),
            (facts(1, 1, 0, 15), Some("the interval is over")),
            (facts(1, 1, 10, 15), None),
            (facts(2, 1, 10, 15), Some("the interval is over")),
            (facts(1, 1, 10_000, 24 * 60), Some("the interval is over")),
            // Nothing was logged.
            (facts(0, 9, 10, 48 * 60), None),
        ] {
            assert_eq!(SCHEDULE.due(&facts), due, "{facts:?}");
        }
    }

    #[test]
    fn damage_failure_and_lack_of_space_do_not_wait() {
        let mut damaged = facts(0, 0, 10_000, 0);
        damaged.repair = true;
        assert_eq!(SCHEDULE.due(&damaged), Some("damage is folded away"));
        let mut failed = facts(1, 1, 10_000, 0);
        failed.failed = true;
        assert_eq!(SCHEDULE.due(&failed), Some("the last one came to nothing"));
        let mut short = facts(1, 1, 10, 0);
        short.space_short = true;
        assert_eq!(SCHEDULE.due(&short), None);
        short.stuck = true;
        assert_eq!(SCHEDULE.due(&short), Some("space is short"));
        short.stuck = false;
        short.elapsed = SHORT_INTERVAL;
        assert_eq!(SCHEDULE.due(&short), Some("space is short"));
        short.logged.records_bytes = 2 * MIB;
        short.elapsed = Duration::ZERO;
        assert_eq!(SCHEDULE.due(&short), Some("space is short"));
        short.logged = Amounts::default();
        assert_eq!(SCHEDULE.due(&short), None);
    }

    #[test]
    fn a_stop_compacts_what_the_next_start_would_notice_and_no_large_store() {
        for (facts, due) in [
            (facts(0, 1, 0, 0), false),
            (facts(1, 1, 0, 0), true),
            (facts(1, 1, 10, 0), false),
            (facts(2, 1, 10, 0), true),
            (facts(40, 1, 200, 0), false),
        ] {
            assert_eq!(SCHEDULE.due_at_stop(&facts), due, "{facts:?}");
        }
    }
}
