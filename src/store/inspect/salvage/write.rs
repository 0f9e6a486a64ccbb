//! The new data dir: a snapshot of what was saved, and an empty log behind it.
//!
//! What always holds: until `CURRENT` is published, and that comes last, a start refuses the directory,
//! for it holds a part of a store only. `jwt-secret` comes first, to make it one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ekokv_wal::{Disk, Error, Log, Mode, Position, Predecessor, RealDisk, publish};

use super::Saved;
use crate::state::{ApiKey, Fingerprint, Keyring, Recorded, Role, State};
use crate::store::data_dir;
use crate::store::open::{bootstrap_id, failure};
use crate::store::options::Failure;
use crate::store::secrets::{self, ADMIN_KEY, hex, random};
use crate::store::snapshot::{DIR, Header, TMP_SUFFIX, Writer, path_of, verify};

/// The log's only segment holds a seal; the first start makes a longer one.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Where the segment ended that there never was: behind its header block and one batch.
const END: u64 = 2 * ekokv_wal::BLOCK_BYTES as u64;

/// What was written.
pub(super) struct Written {
    pub(super) fingerprint: Fingerprint,
    /// What became of the admin key, as a sentence.
    pub(super) admin_key: &'static str,
}

/// Writes `saved` into the data dir `new`, which is made if it is missing. `old` is where the kept admin
/// key is.
pub(super) fn write(
    old: &dyn Disk,
    new: &Path,
    saved: Saved,
    now: u64,
) -> Result<Written, Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create_root(new).map_err(|error| {
        let said = format!("cannot use {}: {error}", new.display());
        data_dir::refused(new, &said, &error)
    })?);
    let _lock = disk
        .lock("lock")
        .map_err(|error| Failure::Locked(format!("cannot lock {}: {error}", new.display())))?;
    // A key that was kept and cannot be read is one that is not there.
    let kept = secrets::kept_admin_key(old).unwrap_or_default();
    write_all(&disk, kept, saved, now).map_err(|error| match failure(new, error) {
        // What is told of damage there is not about this directory.
        Failure::Damaged(said) | Failure::Settings(said) => Failure::Storage(said),
        other => other,
    })
}

fn write_all(
    disk: &Arc<dyn Disk>,
    kept: Option<String>,
    saved: Saved,
    now: u64,
) -> Result<Written, Error> {
    secrets::new_jwt_secret(disk.as_ref())?;
    let mut keyring = saved.state.keyring().clone();
    let admin_key = admit(disk.as_ref(), &mut keyring, kept)?;
    let state = saved.state.with_keyring(keyring);

    let store_id = random_bytes()?;
    let end = Predecessor {
        number: 1,
        salt: random_bytes()?,
        end: END,
        position: Position {
            batch: 1,
            sequence: saved.last_sequence,
            chain: u128::from_le_bytes(random_bytes()?),
        },
    };
    let header = Header {
        store_id,
        end,
        time: saved.time,
    };
    let fingerprint = write_snapshot(disk, &header, &state)?;

    let options = ekokv_wal::Options {
        segment_bytes: SEGMENT_BYTES,
        first_segment_bytes: SEGMENT_BYTES,
        mode: Mode::Always,
        random: Arc::new(random::<16>),
    };
    let time = saved.time.max(now);
    Log::create_behind(Arc::clone(disk), options, store_id, end, time)?.stop(time)?;
    Ok(Written {
        fingerprint,
        admin_key,
    })
}

/// Makes sure that there is an admin key.
fn admit(
    disk: &dyn Disk,
    keyring: &mut Keyring,
    kept: Option<String>,
) -> Result<&'static str, Error> {
    if keyring.api_keys.values().any(|key| key.role == Role::Admin) {
        let known = |key: &String| {
            let found = keyring.authenticate(key);
            found.is_some_and(|found| found.role == Role::Admin)
        };
        return match kept.filter(known) {
            Some(key) => {
                publish(disk, ADMIN_KEY, format!("{key}\n").as_bytes())?;
                Ok("API keys: as they were; admin-key is copied")
            }
            None => Ok("API keys: as they were"),
        };
    }
    if keyring.hashing_key == [0; 32] {
        keyring.hashing_key = random_bytes()?;
    }
    let key = format!("eko_{}", hex(&random_bytes::<32>()?));
    let id = bootstrap_id().map_err(no_random)?;
    let made = ApiKey {
        id: id.as_str().into(),
        role: Role::Admin,
        digest: keyring.digest(&key),
    };
    keyring.api_keys.insert(made.id.clone(), made);
    publish(disk, ADMIN_KEY, format!("{key}\n").as_bytes())?;
    Ok("API keys: no admin key could be saved; a new one is in the file admin-key")
}

fn write_snapshot(
    disk: &Arc<dyn Disk>,
    header: &Header,
    state: &State,
) -> Result<Fingerprint, Error> {
    let path = path_of(header.end.position.sequence);
    let tmp = format!("{path}{TMP_SUFFIX}");
    disk.create_dir(DIR).map_err(Error::io("create", DIR))?;
    disk.sync_dir("").map_err(Error::io("sync", "."))?;
    let mut writer = Writer::create(disk, &tmp, header, state.keyring())?;
    for (key, kept) in state.kept_after(None) {
        writer.push(&Recorded::of(key.into(), kept.to_kept()))?;
    }
    writer.finish()?;
    let unlike = |reason: &str| {
        let invalid = io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        Error::io("read back", &tmp)(invalid)
    };
    let found = verify(disk, &tmp, &mut |_| true).map_err(|bad| unlike(&bad.to_string()))?;
    let fingerprint = state.fingerprint();
    if found.is_none_or(|(_, footer)| footer.fingerprint != fingerprint) {
        return Err(unlike("it is not what was written"));
    }
    disk.rename(&tmp, &path)
        .map_err(Error::io("rename", &path))?;
    disk.sync_dir(DIR).map_err(Error::io("sync", DIR))?;
    Ok(fingerprint)
}

fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    random().map_err(no_random)
}

fn no_random(source: io::Error) -> Error {
    Error::io("get random bytes for", ".")(source)
}
