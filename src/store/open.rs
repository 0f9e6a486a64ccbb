//! Opening a data dir: lock, read, replay, and start the threads; or begin a new store.
//!
//! What always holds: until every verdict says start, nothing but `lock` is made, renamed or removed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use ekokv_wal::{Disk, Draft, Error, Log, Mode, SEGMENT_BYTES_MAX, push_record};

use super::committer::{Commits, Committer};
use super::compactor::{Compactor, Generations, RETRY, is_damage, remove_unfinished, set_aside};
use super::data_dir;
use super::frame::OpenFrame;
use super::handle::{Store, Threads};
use super::logged::Amounts;
use super::options::{Failure, Opened, Options, fits_segment, segment_bytes_needed};
use super::owner::{Owner, Progress};
use super::plan::Now;
use super::provisional::Provisional;
use super::recovery::{self, Loaded, LoadedStore};
use super::seat::Seat;
use super::secrets::{self, ADMIN_KEY, JWT_SECRET, hex, random};
use super::shared::Shared;
use super::spares;
use super::store_clock::Time;
use super::timekeeper::Timekeeper;
use crate::state::{Keyring, Mutation, Role, State};

/// A frame of several requests holds at most this many bytes of records, or a quarter of a segment.
const FRAME_BYTES_MAX: u64 = 8 << 20;
/// The first segment of a run, if it is shorter than others, lasts at a bulk load's pace until the next one
/// is ready.
const FIRST_SEGMENT_BYTES_MIN: u64 = 32 << 20;
/// Ids of admin keys that a first start or `EKOKV_ADMIN_KEY` made begin so; a new one voids them.
const BOOTSTRAP_PREFIX: &str = "bootstrap-";

/// Files besides the log that make a directory a store.
pub(super) const OTHER_FILES: &[&str] = &[JWT_SECRET, ADMIN_KEY];

pub(super) fn open(options: Options) -> Result<Opened, Failure> {
    let dir = options.data_dir.as_path();
    // Before anything is made: settings that cannot work leave no trace.
    segment_bytes(&options)?;
    let disk: Arc<dyn Disk> = Arc::new(data_dir::open(dir)?);
    #[cfg(feature = "faults")]
    let disk: Arc<dyn Disk> = Arc::new(
        ekokv_wal::FaultyDisk::from_environment(disk)
            .map_err(|error| Failure::Settings(error.to_string()))?,
    );
    open_on(options, disk)
}

/// Opens the store that lies on `disk`; the data dir's path is for messages.
pub(super) fn open_on(options: Options, disk: Arc<dyn Disk>) -> Result<Opened, Failure> {
    let segment_bytes = segment_bytes(&options)?;
    let dir = options.data_dir.as_path();
    let lock = disk.lock("lock").map_err(|error| locked(dir, &error))?;

    let retention_ms = u64::try_from(options.expired_retention.as_millis()).unwrap_or(u64::MAX);
    let found = recovery::read(disk.as_ref(), retention_ms).map_err(|error| failure(dir, error))?;
    let last = match &found {
        Loaded::Store(found) => Some(found.time),
        Loaded::Nothing => None,
    };
    let grace_ms = u64::try_from(options.clock_grace.as_millis()).unwrap_or(u64::MAX);
    let timekeeper = Timekeeper::new(Arc::clone(&options.clock), grace_ms, last);
    let time = timekeeper.time().logged;
    let log_options = ekokv_wal::Options {
        segment_bytes,
        first_segment_bytes: first_segment_bytes(&options, segment_bytes),
        mode: options.durability.mode(),
        random: Arc::new(random::<16>),
    };

    let mut new_admin_key = None;
    let mut compaction = Compaction::default();
    let mut state = State::new(retention_ms);
    let (mut log, jwt_secret) = match found {
        Loaded::Store(found) => {
            report(&found);
            let jwt_secret = secrets::jwt_secret(disk.as_ref())?;
            compaction = Compaction::of(&found);
            let log;
            (log, state) =
                go_on(&disk, *found, log_options, time).map_err(|error| failure(dir, error))?;
            (log, jwt_secret)
        }
        Loaded::Nothing => {
            let admin_key = match &options.admin_key {
                Some(given) => given.clone(),
                None => new_admin_key
                    .insert(format!("eko_{}", hex(&random_or_fail::<32>()?)))
                    .clone(),
            };
            let hashing_key = random_or_fail::<32>()?;
            let digest = Keyring {
                hashing_key,
                ..Keyring::default()
            }
            .digest(&admin_key);
            let id = bootstrap_id().map_err(no_random)?;
            let mutations = [
                Mutation::HashingKey { hashing_key },
                Mutation::ApiKey {
                    id: &id,
                    role: Role::Admin,
                    digest,
                },
            ];
            let mut jwt_secret = Vec::new();
            let publish_secrets = |disk: &dyn Disk| {
                jwt_secret = secrets::new_jwt_secret(disk)?;
                match &new_admin_key {
                    Some(key) => ekokv_wal::publish(disk, ADMIN_KEY, format!("{key}\n").as_bytes()),
                    None => remove_admin_key(disk),
                }
            };
            let records = records_of(&mutations);
            let count = mutations.len() as u32;
            let first = Draft {
                count,
                time,
                records: &records,
            };
            let log = Log::create(Arc::clone(&disk), log_options, publish_secrets, first)
                .map_err(|error| failure(dir, error))?;
            for (sequence, mutation) in (1..).zip(&mutations) {
                // The first mutations are about API keys: nothing to free, nobody to tell yet.
                let _ = state.apply(sequence, mutation);
            }
            tracing::info!(data_dir = %dir.display(), "a new store is begun");
            (log, jwt_secret)
        }
    };
    clean_up(disk.as_ref());
    if let Some(key) = &options.admin_key {
        replace_admin_key(&mut log, &mut state, key, time).map_err(|error| failure(dir, error))?;
        // After the change is durable. If the file holds the same key it is as good as before.
        if secrets::kept_admin_key(disk.as_ref())?.is_some_and(|kept| kept != *key) {
            remove_admin_key(disk.as_ref()).map_err(|error| failure(dir, error))?;
        }
    }

    let opened = start(options, disk, log, state, compaction, timekeeper, lock)?;
    Ok(Opened {
        jwt_secret,
        new_admin_key,
        ..opened
    })
}

/// Goes on behind what was read: in a new segment, with damaged snapshots set aside.
pub(super) fn go_on(
    disk: &Arc<dyn Disk>,
    found: LoadedStore,
    options: ekokv_wal::Options,
    time: u64,
) -> Result<(Log, State), Error> {
    let log = Log::start(Arc::clone(disk), found.log, options, time)?;
    for damage in &found.broken {
        set_aside(disk, &damage.file)?;
    }
    Ok((log, found.state))
}

/// Removes what earlier runs did not finish.
pub(super) fn clean_up(disk: &dyn Disk) {
    secrets::remove_unfinished(disk);
    remove_unfinished(disk);
}

/// Starts the threads on an open log and the state that it holds.
fn start(
    options: Options,
    disk: Arc<dyn Disk>,
    log: Log,
    mut state: State,
    compaction: Compaction,
    mut timekeeper: Timekeeper,
    lock: ekokv_wal::Lock,
) -> Result<Opened, Failure> {
    let applied = log.position().sequence;
    // All that was read is synced by now.
    state.released(applied);
    let spare_source = log.spares();
    let segment_bytes = spare_source.segment_bytes();
    let frame_bytes_max = FRAME_BYTES_MAX.min(segment_bytes / 4);
    let shared = Arc::new(Shared::new(
        OpenFrame::new(applied, frame_bytes_max),
        log.shared_room(),
        spare_source,
        state.keyring().clone(),
        compaction.repair,
    ));
    shared.space.set_snapshot(compaction.snapshot_bytes);
    shared.logged.begin(compaction.owed);
    shared.space.sample(disk.as_ref());
    let Time { shown, logged } = timekeeper.tell(&shared);
    let compactor = Compactor {
        disk: Arc::clone(&disk),
        shared: Arc::clone(&shared),
        schedule: options.schedule,
        store_id: log.segment().store_id,
        segment_bytes,
        generations: compaction.generations,
        owed: compaction.owed,
        repair: compaction.repair,
        damage: None,
        scrub: options.scrub,
        since: Instant::now(),
        not_before: Instant::now(),
        retry: RETRY,
    };
    let (spare_wanted, wanted) = sync_channel(1);
    let committer = Committer {
        log,
        shared: Arc::clone(&shared),
        durability: options.durability,
        spare_wanted,
        time: logged,
        synced_at: Instant::now(),
        renewal_failed: None,
    };
    let commits = Arc::new(Commits::new(committer, options.workers));
    let for_committer = Arc::clone(&commits);
    let owner = Owner {
        shared: Arc::clone(&shared),
        state,
        applied,
        timekeeper,
        logged,
        now: Now {
            shown,
            logged,
            hiding: 0,
        },
        carried: applied,
        provisional: Provisional::default(),
        max_memory_bytes: options.max_memory_bytes,
        progress: Progress::default(),
    };
    let seat = Arc::new(Seat::new(owner));
    let for_owner = Arc::clone(&seat);
    let for_spares = Arc::clone(&shared);
    // These threads write into the data dir: it is free once the last of them has ended.
    let lock = Arc::new(lock);
    let committer_lock = Arc::clone(&lock);
    let compactor_lock = Arc::clone(&lock);
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let cannot = |error: io::Error| Failure::Storage(format!("cannot start a thread: {error}"));
    let threads = Threads {
        shared: Arc::clone(&shared),
        owner: named("owner")
            .spawn(move || for_owner.run())
            .map_err(cannot)?,
        committer: named("committer")
            .spawn(move || {
                let result = for_committer.run();
                drop(committer_lock);
                result
            })
            .map_err(cannot)?,
        spares: named("spares")
            .spawn(move || {
                spares::run(&for_spares, &wanted, &lock, &disk);
                drop(lock);
            })
            .map_err(cannot)?,
        compactor: named("compactor")
            .spawn(move || {
                compactor.run();
                drop(compactor_lock);
            })
            .map_err(cannot)?,
    };
    Ok(Opened {
        store: Store {
            seat,
            commits,
            shared,
        },
        threads,
        jwt_secret: Vec::new(),
        new_admin_key: None,
    })
}

/// What the compactor goes on with.
#[derive(Default)]
struct Compaction {
    generations: Generations,
    /// What was logged behind the newest snapshot.
    owed: Amounts,
    snapshot_bytes: u64,
    /// There is damage that a compaction folds away.
    repair: bool,
}

impl Compaction {
    fn of(found: &LoadedStore) -> Self {
        let log = &found.log;
        Self {
            generations: found.generations.clone(),
            owed: Amounts {
                records: log.records,
                records_bytes: log.records_bytes,
                disk_bytes: log.disk_bytes,
                segments: log.segments,
            },
            snapshot_bytes: found.snapshot_bytes,
            repair: log.lasting_repairs() > 0
                || !found.broken.is_empty()
                || found.older_unusable.as_ref().is_some_and(is_damage),
        }
    }
}

fn report(found: &LoadedStore) {
    let LoadedStore { log, state, .. } = found;
    for repair in &log.repairs {
        tracing::warn!(
            file = repair.file,
            offset = repair.offset,
            batch = repair.batch,
            cells = repair.cells,
            "rebuilt from parity or a second copy; the file stays as it is until it is compacted"
        );
    }
    for damage in &found.broken {
        tracing::warn!(
            %damage,
            "a snapshot is damaged; the generation before and the log have all that it held"
        );
    }
    if let Some(error) = &found.older_unusable {
        tracing::warn!(
            %error,
            "the older generation could not be fallen back on; the newest one is whole"
        );
    }
    if let Some(torn) = &log.torn {
        let said = match log.mode {
            Mode::Always => {
                "a batch that nobody was told of was cut short by a crash and is dropped"
            }
            Mode::Interval | Mode::Os => {
                "the log's end, which is not known to be synced, was cut short by a crash and is dropped \
                 from here on; it may have been acknowledged, as the durability of that run allows"
            }
        };
        tracing::warn!(
            file = torn.file,
            offset = torn.offset,
            batch = torn.batch,
            bytes = torn.bytes,
            "{said}"
        );
    }
    tracing::info!(
        keys = state.live_len(),
        snapshot_bytes = found.snapshot_bytes,
        changes = log.records,
        batches = log.batches,
        segments = log.segments,
        last_sequence = log.position.sequence,
        stopped_in_order = log.stopped,
        "the store is read"
    );
}

/// Makes `key` the bootstrap admin key, durably, unless it is it already. The old one is void.
fn replace_admin_key(log: &mut Log, state: &mut State, key: &str, time: u64) -> Result<(), Error> {
    let keyring = state.keyring().clone();
    let known = keyring
        .authenticate(key)
        .is_some_and(|known| known.role == Role::Admin && known.id.starts_with(BOOTSTRAP_PREFIX));
    if !known {
        let id = bootstrap_id().map_err(|source| Error::Io {
            operation: "get random bytes for",
            path: "an admin key's id".to_owned(),
            source,
        })?;
        let mut mutations: Vec<Mutation<'_>> = keyring
            .api_keys
            .keys()
            .filter(|id| id.starts_with(BOOTSTRAP_PREFIX))
            .map(|id| Mutation::ApiKeyRemoved { id })
            .collect();
        mutations.push(Mutation::ApiKey {
            id: &id,
            role: Role::Admin,
            digest: keyring.digest(key),
        });
        let records = records_of(&mutations);
        let first = log.position().sequence.saturating_add(1);
        log.append(Draft {
            count: mutations.len() as u32,
            time,
            records: &records,
        })?;
        log.sync()?;
        for (sequence, mutation) in (first..).zip(&mutations) {
            // The keyring is published when the threads start.
            let _ = state.apply(sequence, mutation);
        }
        tracing::info!("EKOKV_ADMIN_KEY replaces the bootstrap admin key");
    }
    Ok(())
}

fn remove_admin_key(disk: &dyn Disk) -> Result<(), Error> {
    match disk.remove(ADMIN_KEY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            operation: "remove",
            path: ADMIN_KEY.to_owned(),
            source: error,
        }),
        // Needs no sync: a key that comes back is void all the same.
        _ => Ok(()),
    }
}

fn records_of(mutations: &[Mutation<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    for mutation in mutations {
        push_record(&mut records, |out| mutation.encode(out));
    }
    records
}

pub(super) fn bootstrap_id() -> io::Result<String> {
    Ok(format!("{BOOTSTRAP_PREFIX}{}", hex(&random::<4>()?)))
}

fn random_or_fail<const N: usize>() -> Result<[u8; N], Failure> {
    random().map_err(no_random)
}

fn no_random(error: io::Error) -> Failure {
    Failure::Storage(format!("the system hands out no random bytes: {error}"))
}

/// The segment length, if the largest request fits into a segment of it.
fn segment_bytes(options: &Options) -> Result<u64, Failure> {
    let block = ekokv_wal::BLOCK_BYTES as u64;
    let segment_bytes = options.segment_bytes.div_ceil(block).saturating_mul(block);
    if segment_bytes > SEGMENT_BYTES_MAX {
        return Err(Failure::Settings(format!(
            "--segment-bytes (EKOKV_SEGMENT_BYTES) is {segment_bytes}; at most {SEGMENT_BYTES_MAX} \
             are possible"
        )));
    }
    if let Err(needed) = fits_segment(
        segment_bytes,
        options.max_body_bytes,
        options.max_batch_keys,
        options.max_key_bytes,
    ) {
        return Err(Failure::Settings(format!(
            "--segment-bytes (EKOKV_SEGMENT_BYTES) is {segment_bytes}, yet the largest request that \
             --max-body-bytes and --max-batch-keys allow takes {needed}: raise it or lower them"
        )));
    }
    Ok(segment_bytes)
}

/// The length of a run's first segment: a start waits until it is filled, so it is no longer than the
/// largest request, or the largest frame, asks for.
fn first_segment_bytes(options: &Options, segment_bytes: u64) -> u64 {
    let needed = segment_bytes_needed(
        options.max_body_bytes,
        options.max_batch_keys,
        options.max_key_bytes,
    );
    let block = ekokv_wal::BLOCK_BYTES as u64;
    let whole = needed.div_ceil(block).saturating_mul(block);
    whole.max(FIRST_SEGMENT_BYTES_MIN).min(segment_bytes)
}

fn locked(dir: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::WouldBlock {
        let holder = match error.to_string() {
            text if text.is_empty() => "another process".to_owned(),
            text => text,
        };
        return Failure::Locked(format!(
            "the data dir {} is in use by {holder}",
            dir.display()
        ));
    }
    let said = format!(
        "cannot lock the data dir {} by its file lock: {error}",
        dir.display()
    );
    data_dir::refused(dir, &said, error)
}

/// An error of the log as the operator should read it.
pub(super) fn failure(path: &Path, error: Error) -> Failure {
    let dir = path.display();
    match error {
        Error::Damaged(damage) => Failure::Damaged(format!(
            "the data in {dir} is damaged, and starting could lose what was acknowledged: {damage}. \
             Nothing was changed. `ekokv check {dir}` gives a verdict on each file and `ekokv wal {dir}` \
             prints what can be read of the log. Put back a copy of the whole data dir, or of the named \
             file; without one, `ekokv salvage {dir} NEWDIR` writes what can be saved into a new one \
             and lists what is lost"
        )),
        Error::TooLarge { .. } => Failure::Settings(error.to_string()),
        ref full if full.is_for_room() => Failure::Storage(format!(
            "the disk under {dir} is full: {error}. Make room, and try again"
        )),
        Error::Unreadable { ref source, .. } | Error::Io { ref source, .. } => {
            let said = if data_dir::is_no_file(source) {
                format!("the data dir {dir} cannot be used: {error}")
            } else {
                format!("the disk under {dir} failed: {error}")
            };
            data_dir::refused(path, &said, source)
        }
        Error::Latched => Failure::Storage(format!("the disk under {dir} failed: {error}")),
    }
}
