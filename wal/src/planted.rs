//! Bugs that are planted on purpose, so that the tests can show that they find them.
//!
//! With the feature `planted` a build holds them all, and the environment variable `PLANTED_BUG` names
//! the one that is alive. Without the feature [`planted`] is a constant and nothing is left of them. What
//! each does and which test must find it is listed at the head of `tests/planted/run`.

use crate::log::Draft;

/// Whether the bug of this name is alive.
#[cfg(feature = "planted")]
#[must_use]
pub fn planted(bug: &str) -> bool {
    static ALIVE: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("PLANTED_BUG").ok());
    ALIVE.as_deref() == Some(bug)
}

/// Whether the bug of this name is alive: none is in a build without the feature.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}

/// The bug `batch-in-two`: the first record of a draft, and the others. `None` while it is not alive.
pub(crate) fn in_two(draft: Draft<'_>) -> Option<(Draft<'_>, Draft<'_>)> {
    if !planted("batch-in-two") || draft.count < 2 {
        return None;
    }
    let bytes = crate::bytes::u32_at(draft.records, 0)? as usize;
    let (first, rest) = draft
        .records
        .split_at_checked(crate::batch::record_bytes(bytes as u64) as usize)?;
    let part = |count, records| Draft {
        count,
        records,
        ..draft
    };
    Some((part(1, first), part(draft.count - 1, rest)))
}
