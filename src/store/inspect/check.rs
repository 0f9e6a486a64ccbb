//! `ekokv check DIR`: a verdict on each file, what a start would read, and whether it would start.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ekokv_wal::{Damage, Disk, Error, Mode, Predecessor, Survey, UNFINISHED, survey};

use super::files::{Files, Link, SegmentFile, is_repetition};
use super::holder::holder;
use super::place::{no_store, open, unwritten};
use super::torn;
use crate::state::Fingerprint;
use crate::store::open::failure;
use crate::store::options::Failure;
use crate::store::recovery::{self, Loaded, LoadedStore};
use crate::store::secrets::{self, ADMIN_KEY, JWT_SECRET};
use crate::store::snapshot::{Footer, Header, verify};

/// The file that a start locks.
const LOCK: &str = "lock";

/// While a process has the data dir open, files change and go under the hands of whoever reads them:
/// damage is believed when it was met so many times.
const LOOKS_MAX: usize = 3;

/// Prints a verdict on each file of the data dir, and whether a start would work.
///
/// # Errors
/// The class of failure that a start would end with; what was found has been printed.
pub fn check(dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(open(dir)?);
    let mut looks = 0;
    let (text, verdict) = loop {
        looks += 1;
        let holder = holder(dir);
        let looked = look(&disk, dir, holder.as_deref());
        let retry = holder.is_some() && looks < LOOKS_MAX;
        match looked {
            Ok((_, Err(_))) | Err(_) if retry => {}
            other => break other?,
        }
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| unwritten(&error))?;
    verdict
}

/// What was found, as text, and what a start would say.
fn look(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    holder: Option<&str>,
) -> Result<(String, Result<(), Failure>), Failure> {
    let files = Files::read(disk.as_ref()).map_err(|error| failure(dir, error))?;
    if files.is_empty() {
        return Err(no_store(dir));
    }
    let mut report = Report::default();
    if let Some(holder) = holder {
        report.line(format_args!(
            "{holder} has the data dir open: files may change while they are read"
        ));
    }
    report.current(&files);
    let newest = report.snapshots(disk, &files);
    report.segments(disk.as_ref(), &files, newest.as_ref());
    let lock = report.lock(dir);
    let secrets = report.secrets(disk.as_ref(), dir);
    let in_the_way = report.in_the_way(dir, &files, newest.as_ref());
    report.others(disk.as_ref(), &in_the_way);
    let read = recovery::read(disk.as_ref(), u64::MAX);
    let verdict = match read {
        Ok(Loaded::Store(store)) => {
            report.totals(&store);
            report.repairs(&store);
            let first = in_the_way.first();
            lock.and(secrets)
                .and(first.map_or(Ok(()), |path| Err(not_removed(dir, path))))
        }
        Ok(Loaded::Nothing) => Err(no_store(dir)),
        Err(error) => Err(failure(dir, error)),
    };
    report.verdict(dir, newest.map(|(path, _)| path), &verdict);
    Ok((report.text, verdict))
}

/// The text as it grows.
#[derive(Default)]
struct Report {
    text: String,
    /// Files that are damaged or missing.
    bad_files: u64,
    /// The log ends with something torn that may have been acknowledged.
    end_is_unsure: bool,
}

/// The newest snapshot that is whole: its path, and where it ends.
type Newest = (String, Predecessor);

impl Report {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn bad(&mut self, path: &str, role: &str, damage: &Damage) {
        self.bad_files += 1;
        let reason = &damage.reason;
        let offset = damage.offset;
        self.line(format_args!(
            "{path}: DAMAGED{role}, offset {offset}: {reason}"
        ));
    }

    fn current(&mut self, files: &Files) {
        match &files.current {
            Ok(Some(current)) => {
                let copies = if files.current_one_copy {
                    "one of its two copies is lost, which a start makes good"
                } else {
                    "whole"
                };
                let segment = current.segment;
                self.line(format_args!(
                    "CURRENT: {copies}; it names segment {segment}"
                ));
            }
            Ok(None) => {}
            Err(ekokv_wal::Error::Damaged(damage)) => self.bad("CURRENT", "", damage),
            Err(error) => {
                self.bad_files += 1;
                self.line(format_args!("CURRENT: UNREADABLE: {error}"));
            }
        }
    }

    /// The snapshots; returns the newest one that is whole.
    fn snapshots(&mut self, disk: &Arc<dyn Disk>, files: &Files) -> Option<Newest> {
        let mut newest = None;
        let mut lines = Vec::new();
        for file in files.snapshots.iter().rev() {
            let path = file.path();
            // Nobody else is waiting for the disk.
            let found = verify(disk, &path, &mut |_| true);
            lines.push((path.clone(), file.sequence, found));
        }
        for (path, sequence, found) in lines {
            match found {
                Ok(Some((header, _))) if Some(header.store_id) != files.store_id => {
                    self.bad_files += 1;
                    self.line(format_args!("{path}: FOREIGN: it belongs to another store"));
                }
                Ok(Some((header, _))) if header.end.position.sequence != sequence => {
                    self.bad_files += 1;
                    let named = header.end.position.sequence;
                    self.line(format_args!(
                        "{path}: FOREIGN: it is the snapshot of sequence {named} by another name"
                    ));
                }
                Ok(Some((header, footer))) => {
                    let role = if newest.is_none() {
                        "newest: a start reads it"
                    } else {
                        "older: to fall back on"
                    };
                    self.line(format_args!(
                        "{path}: whole, {role}; {}",
                        of_footer(&header, &footer)
                    ));
                    newest.get_or_insert((path, header.end));
                }
                Ok(None) => {}
                Err(bad) => {
                    let needed = if newest.is_some() {
                        ", not needed by a start"
                    } else {
                        ""
                    };
                    self.bad(&path, needed, bad.damage());
                }
            }
        }
        newest
    }

    fn segments(&mut self, disk: &dyn Disk, files: &Files, newest: Option<&Newest>) {
        let covered = newest.map_or(0, |(_, end)| end.number);
        let chain = files.chain(false);
        for file in &files.segments {
            match files.stranger(file, &chain) {
                Some(why) => self.stranger(&file.path(), &why, file.named <= covered),
                None => {
                    let link = chain.iter().find(|link| link.file == Some(file.named));
                    self.segment(disk, files, file, link, covered);
                }
            }
        }
        let has_file = |link: &&Link| files.segments.iter().any(|s| s.named == link.number);
        for link in chain.iter().filter(|link| !has_file(link)) {
            if link.number > covered {
                self.bad_files += 1;
                let path = ekokv_wal::segment_path(link.number);
                self.line(format_args!("{path}: MISSING: the log leads to it"));
            }
        }
    }

    /// A file that is not the segment of its name.
    fn stranger(&mut self, path: &str, why: &str, is_covered: bool) {
        self.bad_files += 1;
        let role = if is_covered {
            "; a snapshot covers it, a start does not read it"
        } else {
            ""
        };
        self.line(format_args!("{path}: FOREIGN: {why}{role}"));
    }

    fn segment(
        &mut self,
        disk: &dyn Disk,
        files: &Files,
        file: &SegmentFile,
        link: Option<&Link>,
        covered: u64,
    ) {
        let path = file.path();
        let (salt, end) = link.map_or((None, None), |link| (link.salt, link.end));
        let found = match survey(disk, &path, salt, end.as_ref(), &mut |_, _| {}) {
            Ok(found) => found,
            Err(error) => {
                self.bad_files += 1;
                return self.line(format_args!("{path}: UNREADABLE: {error}"));
            }
        };
        let current = match &files.current {
            Ok(Some(current)) => current.segment,
            _ => u64::MAX,
        };
        let role = if file.named <= covered {
            "covered by a snapshot: a start does not read it"
        } else if file.named > current {
            if is_repetition(&found) {
                "superfluous: a start removes it"
            } else {
                "above the one that CURRENT names"
            }
        } else {
            match link {
                None => "superfluous: a start removes it",
                Some(link) if link.end.is_none() => "newest",
                Some(_) => "sealed",
            }
        };
        match found.damage.first() {
            Some(damage) => {
                self.bad(&path, &format!(", {role}"), damage);
                if let more @ 1.. = found.damage.len() - 1 {
                    self.line(format_args!("  and {more} more places"));
                }
            }
            None => self.line(format_args!("{path}: whole, {role}; {}", of_survey(&found))),
        }
        for repair in &found.repairs {
            self.line(format_args!(
                "  rebuilt in memory: offset {}, batch {}, cells {}",
                repair.offset, repair.batch, repair.cells
            ));
        }
        if let (Some(torn), Some(header)) = (&found.torn, &found.header) {
            self.line(format_args!("  {}", torn::in_words(torn, header.mode)));
        }
    }

    /// The lock: that a start can take it. Who has it is said elsewhere.
    fn lock(&mut self, dir: &Path) -> Result<(), Failure> {
        if std::fs::metadata(dir.join(LOCK)).is_ok_and(|found| !found.is_file()) {
            self.bad_files += 1;
            self.line(format_args!("{LOCK}: IN THE WAY: it is no file"));
            let error = ErrorKind::IsADirectory.into();
            return Err(failure(dir, Error::io("lock", LOCK)(error)));
        }
        Ok(())
    }

    /// The secrets: that they are there, that they can be read, and who else may. What a start says of the
    /// one that it needs.
    fn secrets(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), Failure> {
        let jwt_secret = secrets::kept_jwt_secret(disk).map(|kept| kept.is_some());
        let admin_key = secrets::kept_admin_key(disk).map(|kept| kept.is_some());
        let missing = "not there: a start makes a new one, and tokens end";
        self.secret(dir, JWT_SECRET, &jwt_secret, missing);
        self.secret(dir, ADMIN_KEY, &admin_key, "not there");
        jwt_secret.map(drop)
    }

    fn secret(&mut self, dir: &Path, name: &str, kept: &Result<bool, Failure>, missing: &str) {
        if let Ok(false) = kept {
            return self.line(format_args!("{name}: {missing}"));
        }
        if let Ok(found) = std::fs::metadata(dir.join(name))
            && found.is_file()
        {
            let mode = found.permissions().mode() & 0o7777;
            let open = if mode & 0o077 == 0 {
                ""
            } else {
                ": others than its owner may use it, make it 0600"
            };
            self.line(format_args!("{name}: there, mode {mode:04o}{open}"));
        }
        if let Err(error) = kept {
            self.bad_files += 1;
            self.line(format_args!("  UNUSABLE: {error}"));
        }
    }

    /// Directories under the names of files that a start removes: they stay, and the start ends.
    fn in_the_way(&mut self, dir: &Path, files: &Files, newest: Option<&Newest>) -> Vec<String> {
        let is_dir = |path: &String| {
            std::fs::symlink_metadata(dir.join(path)).is_ok_and(|found| found.is_dir())
        };
        let covered = newest.map_or(0, |(_, end)| end.number);
        let chain = files.chain(false);
        let removed = files.segments.iter().filter(|file| {
            file.named > covered && !chain.iter().any(|link| link.file == Some(file.named))
        });
        let unfinished = UNFINISHED.iter().map(|path| (*path).to_owned());
        let all = unfinished.chain(removed.map(SegmentFile::path));
        let found: Vec<String> = all.filter(is_dir).collect();
        for path in &found {
            self.bad_files += 1;
            self.line(format_args!(
                "{path}: IN THE WAY: it is a directory, and a start removes a file there"
            ));
        }
        found
    }

    /// Files that no start reads.
    fn others(&mut self, disk: &dyn Disk, in_the_way: &[String]) {
        for dir in ["", "wal", "snapshots"] {
            for name in disk.list(dir).unwrap_or_default() {
                let path = if dir.is_empty() {
                    name
                } else {
                    format!("{dir}/{name}")
                };
                if in_the_way.contains(&path) {
                    continue;
                }
                if path.ends_with(".tmp") {
                    self.line(format_args!("{path}: unfinished or spare, never read"));
                } else if path.ends_with(".broken") {
                    self.line(format_args!("{path}: set aside as damaged, never read"));
                }
            }
        }
    }

    fn totals(&mut self, store: &LoadedStore) {
        let log = &store.log;
        self.line(format_args!(
            "log: {} segments, {} batches, {} records, last sequence {}, {}",
            log.segments,
            log.batches,
            log.records,
            log.position.sequence,
            if log.stopped {
                "stopped in order"
            } else {
                "not stopped in order"
            },
        ));
        self.line(format_args!(
            "state: {}",
            of_fingerprint(&store.state.fingerprint())
        ));
    }

    fn repairs(&mut self, store: &LoadedStore) {
        self.end_is_unsure = store.log.torn.is_some() && store.log.mode != Mode::Always;
        for repair in &store.log.repairs {
            self.line(format_args!(
                "repair: {} offset {}, batch {}, cells {}",
                repair.file, repair.offset, repair.batch, repair.cells
            ));
        }
        if let Some(error) = &store.older_unusable {
            self.line(format_args!(
                "older generation: cannot be fallen back on: {error}"
            ));
        }
    }

    fn verdict(&mut self, dir: &Path, newest: Option<String>, verdict: &Result<(), Failure>) {
        let from = newest.unwrap_or_else(|| "the beginning of the log".to_owned());
        let dir = dir.display();
        let bad_files = self.bad_files;
        let synced = if self.end_is_unsure {
            ", as far as it is known to be synced"
        } else {
            ""
        };
        match verdict {
            Ok(()) if bad_files == 0 => self.line(format_args!(
                "verdict: a start works, from {from}; all files are whole{synced}"
            )),
            Ok(()) => self.line(format_args!(
                "verdict: a start works, from {from}, and nothing is lost{synced}: it does not need the \
                 damaged files ({bad_files})"
            )),
            Err(Failure::Damaged(_)) => self.line(format_args!(
                "verdict: a start is refused (65). Put back a copy of the whole data dir; or \
                 `ekokv salvage {dir} NEWDIR` writes what can be saved into a new one and lists \
                 what is lost"
            )),
            Err(Failure::Storage(_)) => self.line(format_args!(
                "verdict: a start is refused (74): the disk does not hand over what is needed. Copy \
                 the data dir to another disk, as far as it can be read, and check the copy"
            )),
            Err(_) => self.line(format_args!("verdict: a start is refused (78)")),
        }
    }
}

/// What a start says that cannot remove what it has to.
fn not_removed(dir: &Path, path: &str) -> Failure {
    failure(
        dir,
        Error::io("remove", path)(ErrorKind::IsADirectory.into()),
    )
}

fn of_survey(found: &Survey) -> String {
    let records: u64 = found.batches.iter().map(|b| u64::from(b.count)).sum();
    let last = found.batches.last().map_or(0, |b| b.after.sequence);
    let batches = found.batches.len();
    format!("{batches} batches, {records} records, last sequence {last}")
}

fn of_footer(header: &Header, footer: &Footer) -> String {
    let counts = of_fingerprint(&footer.fingerprint);
    let segment = header.end.number;
    format!("up to segment {segment}: {counts}")
}

fn of_fingerprint(found: &Fingerprint) -> String {
    format!(
        "{} keys, {} remembered, {} links, {} API keys",
        found.live, found.remembered, found.links, found.api_keys
    )
}
