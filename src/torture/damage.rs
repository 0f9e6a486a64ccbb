//! Damage to the files of a data dir that was stopped in order: each case alone, and made good again
//! before the next. A start, which is run in this process, must find all or refuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::draw::Draw;
use super::go_on;
use crate::store::Failure;
use crate::store::inspect::{Contents, examine};

const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    BitFlipped,
    SectorZeroed,
    BlockZeroed,
    Cut,
    Removed,
}

const KINDS: [Kind; 5] = [
    Kind::BitFlipped,
    Kind::SectorZeroed,
    Kind::BlockZeroed,
    Kind::Cut,
    Kind::Removed,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::BitFlipped => "bit flipped",
            Self::SectorZeroed => "sector zeroed",
            Self::BlockZeroed => "4 KiB zeroed",
            Self::Cut => "file cut",
            Self::Removed => "file removed",
        }
    }

    /// The file's bytes afterwards, `None` if there are none.
    fn apply(self, whole: &[u8], draw: &mut Draw) -> Option<Vec<u8>> {
        let mut bytes = whole.to_vec();
        // Behind its last byte that is not zero a file has nothing that could be damaged.
        let used = whole
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let at = usize::try_from(draw.below(used as u64)).unwrap_or_default();
        let zero = |bytes: &mut Vec<u8>, unit: usize| {
            let end = bytes.len().min((at / unit + 1) * unit);
            if let Some(range) = bytes.get_mut(at / unit * unit..end) {
                range.fill(0);
            }
        };
        match self {
            Self::BitFlipped => {
                let bit = draw.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::SectorZeroed => zero(&mut bytes, SECTOR_BYTES),
            Self::BlockZeroed => zero(&mut bytes, BLOCK_BYTES),
            Self::Cut => bytes.truncate(at),
            Self::Removed => return None,
        }
        Some(bytes)
    }
}

/// What came of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    unharmed: u32,
    repaired: u32,
    refused: u32,
    silent: u32,
}

/// What came of it.
pub(super) struct Damaged {
    counts: [Counts; KINDS.len()],
    /// Each silent case.
    silent: Vec<String>,
}

impl Damaged {
    pub(super) fn silent(&self) -> usize {
        self.silent.len()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<15}{:>10}{:>10}{:>10}{:>10}",
            "damage", "unharmed", "repaired", "refused", "silent"
        )];
        for (kind, counts) in KINDS.iter().zip(&self.counts) {
            lines.push(format!(
                "{:<15}{:>10}{:>10}{:>10}{:>10}",
                kind.name(),
                counts.unharmed,
                counts.repaired,
                counts.refused,
                counts.silent
            ));
        }
        lines.extend(self.silent.iter().map(|case| format!("silent: {case}")));
        lines
    }
}

/// Damages the files of the data dir `dir` in `cases` ways.
pub(super) fn run(
    dir: &Path,
    cases: u32,
    stop: &AtomicBool,
    draw: &mut Draw,
) -> Result<Damaged, Failure> {
    let files = files(dir).map_err(|error| failed(dir, &error))?;
    let whole = examine(dir)?;
    let mut damaged = Damaged {
        counts: [Counts::default(); KINDS.len()],
        silent: Vec::new(),
    };
    for case in 0..cases {
        go_on(stop)?;
        // In turn, so that each kind is met however few cases there are.
        let index = case as usize % KINDS.len();
        let (Some(kind), Some(path)) = (KINDS.get(index), draw.one_of(&files)) else {
            continue;
        };
        let bytes = fs::read(path).map_err(|error| failed(path, &error))?;
        let written = match kind.apply(&bytes, draw) {
            Some(changed) => fs::write(path, changed),
            None => fs::remove_file(path),
        };
        written.map_err(|error| failed(path, &error))?;
        let outcome = examine(dir);
        fs::write(path, &bytes).map_err(|error| failed(path, &error))?;
        let Some(counts) = damaged.counts.get_mut(index) else {
            continue;
        };
        match outcome {
            Err(_) => counts.refused += 1,
            Ok(found) if !is_all(&found, &whole) => {
                counts.silent += 1;
                let name = path.strip_prefix(dir).unwrap_or(path).display();
                damaged
                    .silent
                    .push(format!("case {case}: {name}, {}", kind.name()));
            }
            Ok(found) if found.repaired && !whole.repaired => counts.repaired += 1,
            Ok(_) => counts.unharmed += 1,
        }
    }
    // What was made good again is what it was.
    if examine(dir)? == whole {
        Ok(damaged)
    } else {
        Err(failed(
            dir,
            &std::io::Error::other("files do not keep what is written"),
        ))
    }
}

fn is_all(found: &Contents, whole: &Contents) -> bool {
    found.fingerprint == whole.fingerprint && found.last_sequence == whole.last_sequence
}

/// `CURRENT`, the segments and the snapshots.
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![dir.join("CURRENT")];
    for (below, suffix) in [("wal", "wal"), ("snapshots", "snap")] {
        for entry in fs::read_dir(dir.join(below))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == suffix) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Storage(format!("{}: {error}", path.display()))
}
