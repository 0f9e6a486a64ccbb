//! What can be had of the snapshots and the log of a data dir that does not start, and what not.
//!
//! Which changes are lost is told by the numbers of batches, which have no gap, and by where headers and
//! snapshots say that the log stood.

use std::collections::BTreeMap;

use ekokv_wal::{Disk, Flags, Mode, Position, Survey, segment_path, survey};

use super::replay::{Base, Replay};
use super::{SKIP_SEQUENCES, Saved};
use crate::state::{Kept, Key, Keyring, Loader};
use crate::store::inspect::files::{Files, Link, is_repetition};
use crate::store::inspect::torn;
use crate::store::snapshot::{Gap, path_of, read_parts};

/// Saves what can be had.
pub(super) fn gather(disk: &dyn Disk, files: &Files) -> Saved {
    let snapshots = Snapshots::read(disk, files);
    // Behind a snapshot that is complete the log says all; without one, from its beginning.
    let complete = || {
        snapshots
            .bases
            .iter()
            .rev()
            .filter(|base| base.is_complete())
    };
    let header = complete().find_map(|base| base.parts.header);
    let from = header.map_or((0, Position::default()), |header| {
        (header.end.number, header.end.position)
    });
    let known_sequence = complete().map(|base| base.sequence).max().unwrap_or(0);
    let snapshot_times = snapshots.bases.iter().filter_map(|b| b.parts.header);
    let mut time = snapshot_times.map(|header| header.time).max().unwrap_or(0);
    let mut last_sequence = snapshots
        .bases
        .iter()
        .map(|b| b.sequence)
        .max()
        .unwrap_or(0);

    let (links, apart) = usable_links(disk, files);
    let mut tally = Tally {
        at: from.1,
        known_sequence,
        is_retired: !snapshots.bases.is_empty(),
        losses: Vec::new(),
        pending: None,
    };
    let mut loader = Loader::new(u64::MAX);
    for (key, kept) in snapshots.keys {
        loader.push(&key, kept.by_ref());
    }
    let state = loader.finish().with_keyring(snapshots.keyring);
    let mut replay = Replay::new(state, &snapshots.bases, snapshots.keyring_at);
    let mut batches = 0;
    let mut torn_lines = Vec::new();
    for (index, found) in links.iter().enumerate() {
        if found.link.number <= from.0 {
            continue;
        }
        tally.take(found, index + 1 == links.len());
        let (Some(path), Ok(seen)) = (found.path(), &found.survey) else {
            continue;
        };
        batches += seen.batches.len();
        if let (Some(torn), Some(header)) = (&seen.torn, &seen.header) {
            torn_lines.push(torn::in_words(torn, header.mode));
        }
        time = time.max(seen.time);
        let before = seen.header.map_or(0, |header| header.before().sequence);
        last_sequence = last_sequence.max(before);
        let (salt, end) = (found.link.salt, found.link.end.as_ref());
        // It was opened and read a moment ago; if that fails now, the losses say less than is lost.
        let again = survey(disk, &path, salt, end, &mut |offset, batch| {
            if batch.number < found.below {
                replay.take(&path, offset, batch);
            }
        });
        if let Err(error) = again {
            tally.losses.push(format!("{path}: {error}"));
        }
    }
    // One that a snapshot covers, named by a `CURRENT` of another time, is not what comes behind it.
    if links.iter().all(|found| found.link.number <= from.0) {
        let next = from.1.sequence.saturating_add(1);
        tally.losses.push(format!(
            "wal: there is no segment behind what was read; all changes from sequence {next} on"
        ));
    }
    if let Err(error) = &files.current {
        tally.losses.push(format!(
            "CURRENT, which names the newest segment: if there was one behind the last that was read, it \
             is lost too ({error})"
        ));
    }
    tally.losses.extend(apart);
    tally.losses.append(&mut replay.losses);

    let mut sources = snapshots.sources;
    let mut losses = Vec::new();
    for (path, gap) in snapshots.gaps {
        let line = gap_line(&path, &gap);
        // Without a gap in the log from a complete snapshot, or from the beginning, on, all is there.
        if tally.losses.is_empty() {
            sources.push(format!("made good by older snapshots and the log: {line}"));
        } else {
            losses.push(line);
        }
    }
    sources.push(format!(
        "read: {batches} batches of the log, {} changes",
        replay.applied
    ));
    sources.append(&mut torn_lines);
    losses.append(&mut tally.losses);
    last_sequence = last_sequence.max(tally.at.sequence).max(replay.last);
    Saved {
        state: replay.state,
        time,
        last_sequence: last_sequence.saturating_add(SKIP_SEQUENCES),
        sources,
        losses,
        end_is_unsure: links.last().is_none_or(Found::end_is_unsure),
    }
}

fn gap_line(path: &str, gap: &Gap) -> String {
    let (offset, reason) = (gap.offset, &gap.reason);
    let keys = match (&gap.after, &gap.before) {
        (None, None) => "all its keys".to_owned(),
        (Some(after), None) => format!("keys behind {after:?}"),
        (None, Some(before)) => format!("keys before {before:?}"),
        (Some(after), Some(before)) => format!("keys between {after:?} and {before:?}"),
    };
    format!("{path} offset {offset}: {keys}, as far as the log does not have them: {reason}")
}

/// What was read of the snapshots.
#[derive(Default)]
struct Snapshots {
    /// Oldest first.
    bases: Vec<Base>,
    /// The keys as the newest snapshot has them whose word on them is known.
    keys: BTreeMap<Key, Kept>,
    keyring: Keyring,
    /// The sequence as of which the API keys are.
    keyring_at: u64,
    gaps: Vec<(String, Gap)>,
    sources: Vec<String>,
}

impl Snapshots {
    fn read(disk: &dyn Disk, files: &Files) -> Self {
        let mut all = Self::default();
        for file in &files.snapshots {
            all.add(disk, files.store_id, file.sequence);
        }
        // What lies before a snapshot that is complete is in it.
        if let Some(newest) = all.bases.iter().rposition(Base::is_complete) {
            let newest = all.bases.get(newest).map_or(0, |base| base.sequence);
            let path_is_older = |path: &str| *path < *path_of(newest);
            all.gaps.retain(|(path, _)| !path_is_older(path));
        }
        all
    }

    fn add(&mut self, disk: &dyn Disk, store_id: Option<[u8; 16]>, sequence: u64) {
        let path = path_of(sequence);
        let mut found = Vec::new();
        let parts = read_parts(disk, &path, &mut |recorded| {
            found.push((recorded.key, recorded.kept));
        });
        let parts = match parts {
            Ok(parts) => parts,
            Err(bad) => {
                let damage = bad.damage();
                let gap = Gap {
                    offset: damage.offset,
                    reason: damage.reason.clone(),
                    after: None,
                    before: None,
                };
                self.gaps.push((path, gap));
                return;
            }
        };
        let belongs = match &parts.header {
            Some(header) => {
                Some(header.store_id) == store_id && header.end.position.sequence == sequence
            }
            // Its name must do: all that it holds is older.
            None => found.iter().all(|(_, kept)| kept.version() <= sequence),
        };
        if !belongs {
            self.sources
                .push(format!("not used: {path}, which is not what its name says"));
            return;
        }
        self.sources.push(format!(
            "read: {path}, {} blocks with {} keys",
            parts.blocks,
            found.len()
        ));
        self.keys.retain(|key, _| !parts.covers(key));
        self.keys.extend(found);
        if parts.keyring_whole {
            self.keyring = parts.keyring.clone();
            self.keyring_at = sequence;
        }
        let gaps = parts.gaps.iter().cloned();
        self.gaps.extend(gaps.map(|gap| (path.clone(), gap)));
        self.bases.push(Base { sequence, parts });
    }
}

/// A segment of the chain and what is in it.
struct Found {
    link: Link,
    survey: Result<Survey, String>,
    /// Batches of this number and above are those of later segments.
    below: u64,
}

impl Found {
    fn path(&self) -> Option<String> {
        self.link.file.map(segment_path)
    }

    /// Whether its writers may have been told of what was not synced yet when its run ended.
    fn end_is_unsure(&self) -> bool {
        let Ok(seen) = &self.survey else { return true };
        let told_early = seen.header.is_none_or(|header| header.mode != Mode::Always);
        let last = seen.batches.last();
        told_early && last.is_none_or(|last| !last.flags.has(Flags::STOP))
    }
}

/// Looks at the segments of the chain, oldest first. Then what is not in it, though it has batches of its
/// own, as a loss.
fn usable_links(disk: &dyn Disk, files: &Files) -> (Vec<Found>, Option<String>) {
    let current = match &files.current {
        Ok(Some(current)) => current.segment,
        _ => u64::MAX,
    };
    let mut above = files.segments.iter().filter(|s| s.named > current);
    let beyond_current = above.any(|segment| {
        survey(disk, &segment.path(), None, None, &mut |_, _| {})
            .is_ok_and(|found| !is_repetition(&found))
    });
    let mut below = u64::MAX;
    let mut found: Vec<Found> = Vec::new();
    let (chain, apart) = chain_of(files, beyond_current);
    for link in chain.into_iter().rev() {
        let survey = look_at(disk, files, &link);
        // Where a segment ends that nobody names is told by where the next one begins.
        let limit = match link.end {
            None => below,
            Some(_) => u64::MAX,
        };
        if let Ok(seen) = &survey {
            let first = seen.batches.first().map_or(u64::MAX, |b| b.after.batch);
            below = below.min(first);
        }
        found.push(Found {
            link,
            survey,
            below: limit,
        });
    }
    found.reverse();
    (found, apart)
}

/// The chain from the newest segment that counts: the highest one if it holds batches of its own, unless it
/// is of another run than the one that `CURRENT` names. Of two runs that went on from one place only one
/// can be saved.
fn chain_of(files: &Files, beyond_current: bool) -> (Vec<Link>, Option<String>) {
    let named = files.chain(false);
    if !beyond_current {
        return (named, None);
    }
    let beyond = files.chain(true);
    let current = named.last();
    let (Some(current), Some(highest)) = (current, beyond.last()) else {
        return (beyond, None);
    };
    let Some(header) = files.header_of(current) else {
        return (beyond, None);
    };
    let follows = beyond.iter().any(|link| {
        let is_current = link.number == current.number && link.file == current.file;
        // One that repeats what little the other held, which then no longer counts.
        let replaces = link.number > current.number
            && files
                .header_of(link)
                .is_some_and(|found| found.predecessor == header.predecessor);
        is_current || replaces
    });
    if follows {
        return (beyond, None);
    }
    let path = segment_path(highest.file.unwrap_or(highest.number));
    let apart = format!(
        "{path}: it holds batches of its own and does not follow the segment that CURRENT names: one of \
         them was put back from another time, and what is in it is not saved"
    );
    (named, Some(apart))
}

/// What is in the file of a link, or why nothing is. Whatever else lies under its name is none of the
/// log's: it neither makes good what is missing nor says where the segment before it ends.
fn look_at(disk: &dyn Disk, files: &Files, link: &Link) -> Result<Survey, String> {
    match link.file.map(segment_path) {
        Some(path) => survey(disk, &path, link.salt, link.end.as_ref(), &mut |_, _| {})
            .map_err(|error| error.to_string()),
        None => {
            let path = segment_path(link.number);
            Err(if files.segments.iter().any(|s| s.named == link.number) {
                format!("{path}: it is not the segment that the log leads to, which is missing")
            } else {
                format!("{path}: it is missing")
            })
        }
    }
}

/// Follows the log and notes what is missing.
struct Tally {
    /// Where the log stands as far as it is known.
    at: Position,
    /// What is in a snapshot that is complete is not lost.
    known_sequence: u64,
    /// Whether the log's beginning may have been folded into snapshots.
    is_retired: bool,
    losses: Vec<String>,
    /// What is wrong where the log was left last, if it is not known yet how much is lost.
    pending: Option<String>,
}

impl Tally {
    fn take(&mut self, found: &Found, is_newest: bool) {
        let link = &found.link;
        let path = segment_path(link.file.unwrap_or(link.number));
        let seen = match &found.survey {
            Ok(seen) => seen,
            Err(reason) => {
                self.pending.get_or_insert_with(|| reason.clone());
                return self.close(link, is_newest);
            }
        };
        let mut damage = seen.damage.iter().peekable();
        for batch in &seen.batches {
            while let Some(place) = damage.next_if(|place| place.offset <= batch.offset) {
                self.note(&path, place.offset, &place.reason);
            }
            let number = batch.after.batch;
            if number >= found.below || number <= self.at.batch {
                self.pending = None;
                continue;
            }
            if number > self.at.batch.saturating_add(1) {
                self.lose(number - 1, batch.first_sequence.saturating_sub(1));
            }
            self.pending = None;
            self.at = batch.after;
        }
        for place in damage {
            self.note(&path, place.offset, &place.reason);
        }
        // A file that was cut at the end of a batch looks as if it ended there.
        let is_cut = seen.header.is_some() && seen.damage.iter().any(|d| d.batch.is_none());
        if is_newest && is_cut && self.pending.is_none() {
            self.note(&path, 0, "it was cut");
        }
        self.close(link, is_newest);
    }

    fn note(&mut self, path: &str, offset: u64, reason: &str) {
        self.pending
            .get_or_insert_with(|| format!("{path} offset {offset}: {reason}"));
    }

    /// The end of a segment.
    fn close(&mut self, link: &Link, is_newest: bool) {
        match link.end {
            Some(end) if end.position.batch > self.at.batch => {
                self.lose(end.position.batch, end.position.sequence);
                self.at = end.position;
                self.pending = None;
            }
            Some(_) => self.pending = None,
            None if is_newest => {
                if let Some(place) = self.pending.take() {
                    let batch = self.at.batch.saturating_add(1);
                    let sequence = self.at.sequence.saturating_add(1);
                    self.losses.push(format!(
                        "{place}; batch {batch} and all behind it, sequences from {sequence} on"
                    ));
                }
            }
            // How much it is shows in the next segment.
            None => {}
        }
    }

    /// Notes that all batches up to `batch` are lost.
    fn lose(&mut self, batch: u64, sequence: u64) {
        let from = self.at.batch.saturating_add(1);
        let pending = self.pending.take();
        if sequence <= self.known_sequence {
            return;
        }
        let place = match pending {
            _ if self.at.batch == 0 && self.is_retired => {
                "wal: its beginning was folded into snapshots, and of these only what verifies is left"
                    .to_owned()
            }
            Some(place) => place,
            None => "wal: it does not go on where it left off".to_owned(),
        };
        self.losses.push(format!(
            "{place}; batches {from} to {batch}, sequences {} to {sequence}",
            self.at.sequence.saturating_add(1)
        ));
    }
}
