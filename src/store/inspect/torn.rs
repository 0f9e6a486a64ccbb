//! What a crash left at the end of a log, in words.

use ekokv_wal::{Mode, Torn};

/// What is to be said of it, by the mode of the run that wrote it. Nothing proves that it was synced, and
/// in `always` nobody is told of a write before that; in the other modes they were told at once.
pub(super) fn in_words(torn: &Torn, mode: Mode) -> String {
    let kind = match mode {
        Mode::Always => "torn, never acknowledged",
        Mode::Interval | Mode::Os => "torn, not known to be synced, may have been acknowledged",
    };
    let Torn {
        file,
        offset,
        batch,
        bytes,
    } = torn;
    format!("{kind}: {file} offset {offset}, batch {batch} and what is behind it, bytes {bytes}")
}
