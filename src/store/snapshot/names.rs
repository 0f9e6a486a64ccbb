//! Where snapshots lie.

/// Directory of the snapshots.
pub(in crate::store) const DIR: &str = "snapshots";
/// What a snapshot's name ends with.
const SNAPSHOT_SUFFIX: &str = ".snap";
/// What the name of a file ends with that is not finished, and is never read by a start.
pub(in crate::store) const TMP_SUFFIX: &str = ".tmp";

/// Path, below the data dir, of the snapshot whose last sequence this is.
pub(in crate::store) fn path_of(sequence: u64) -> String {
    format!("{DIR}/{sequence:020}{SNAPSHOT_SUFFIX}")
}

/// The last sequence in a snapshot's file name; `None` for other names.
pub(in crate::store) fn sequence_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SNAPSHOT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}
