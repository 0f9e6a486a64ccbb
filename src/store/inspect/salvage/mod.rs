//! `ekokv salvage DIR NEWDIR`: what can be saved of a damaged data dir, as a new one that starts.
//!
//! What always holds:
//! - `DIR` is only read. `NEWDIR` is a store of its own, with an id of its own.
//! - Nothing is guessed: each key, value and link that is saved has the checksums with which it was
//!   written, and its version.
//! - All that is known to be lost is listed. Where a range of changes is lost, a key that was last changed
//!   in it has what came before, or is missing.
//! - A `NEWDIR` that was not finished is refused by a start.
//!
//! Sources, in this order: what a start would serve; else the newest snapshot as far as its blocks verify,
//! older ones for the keys between, and each batch of the log that verifies, also behind a gap.

mod gather;
mod replay;
mod write;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ekokv_wal::{Disk, Mode};

use super::files::Files;
use super::holder::holder;
use super::place::{check_new, no_store, open, unwritten};
use super::torn;
use crate::state::State;
use crate::store::open::failure;
use crate::store::options::Failure;
use crate::store::recovery::{self, Loaded};

/// After a loss versions go on this far ahead: more than any run can have given out behind the last one
/// that is known, so that no version is given twice.
const SKIP_SEQUENCES: u64 = 1 << 32;

/// What was saved.
struct Saved {
    state: State,
    /// Newest store time in milliseconds since the Unix epoch.
    time: u64,
    /// Versions go on behind this one.
    last_sequence: u64,
    /// What was read, line by line.
    sources: Vec<String>,
    /// What is lost, line by line.
    losses: Vec<String>,
    /// The run that wrote last was not stopped in order, and told of writes before they were synced.
    end_is_unsure: bool,
}

/// Writes what can be saved of the store in `dir` into `new`, and prints what is lost.
///
/// # Errors
/// [`Failure::Damaged`] if something is lost: what is left is saved all the same. [`Failure::Locked`] if a
/// process has `dir` open, [`Failure::Settings`] if it holds no store or `new` cannot be used,
/// [`Failure::Storage`] if reading or writing fails.
pub fn salvage(dir: &Path, new: &Path, now: u64, out: &mut dyn Write) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(open(dir)?);
    check_new(new, dir)?;
    if let Some(holder) = holder(dir) {
        return Err(Failure::Locked(format!(
            "the data dir {} is in use by {holder}, which has the data in memory and makes damaged \
             files good by itself",
            dir.display()
        )));
    }
    let saved = save(&disk, dir)?;
    let mut say = |line: &str| writeln!(out, "{line}").map_err(|error| unwritten(&error));
    for source in &saved.sources {
        say(source)?;
    }
    for loss in &saved.losses {
        say(&format!("lost: {loss}"))?;
    }
    let losses = saved.losses.len();
    let end_is_unsure = saved.end_is_unsure;
    let last_sequence = saved.last_sequence;
    let written = write::write(disk.as_ref(), new, saved, now)?;
    let found = written.fingerprint;
    say(&format!(
        "saved in {}: {} keys, {} remembered, {} links, {} API keys, each with its version; the next \
         version is {}",
        new.display(),
        found.live,
        found.remembered,
        found.links,
        found.api_keys,
        last_sequence.saturating_add(1),
    ))?;
    say(written.admin_key)?;
    say("jwt-secret: made anew, earlier tokens end")?;
    if losses == 0 {
        return say(if end_is_unsure {
            "nothing was lost that is known to be synced; what was acknowledged behind that may be"
        } else {
            "nothing was lost"
        });
    }
    say(
        "a key that was last changed in what is lost has the value before, or is missing; one that was \
         deleted there may be back; an API key that was removed there may be valid",
    )?;
    Err(Failure::Damaged(format!(
        "{losses} losses, listed in the output; what could be saved is in {}",
        new.display()
    )))
}

fn save(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Saved, Failure> {
    let files = Files::read(disk.as_ref()).map_err(|error| failure(dir, error))?;
    if files.is_empty() {
        return Err(no_store(dir));
    }
    match recovery::read(disk.as_ref(), u64::MAX) {
        Ok(Loaded::Nothing) => Err(no_store(dir)),
        Ok(Loaded::Store(store)) => {
            let log = &store.log;
            let last = log.position.sequence;
            let end_is_unsure = log.mode != Mode::Always && !log.stopped;
            let last_sequence = if end_is_unsure {
                last.saturating_add(SKIP_SEQUENCES)
            } else {
                last
            };
            let mut sources = vec![format!(
                "read: all that a start would read, up to sequence {last}"
            )];
            sources.extend(log.torn.iter().map(|torn| torn::in_words(torn, log.mode)));
            Ok(Saved {
                time: store.time,
                last_sequence,
                sources,
                losses: Vec::new(),
                end_is_unsure,
                state: store.state,
            })
        }
        Err(error) => {
            let mut saved = gather::gather(disk.as_ref(), &files);
            saved
                .sources
                .insert(0, format!("a start is refused: {error}"));
            Ok(saved)
        }
    }
}
