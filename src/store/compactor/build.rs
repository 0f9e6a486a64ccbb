//! Making a snapshot: the log is sorted into runs, merged with what it follows, written, synced, read
//! back, compared, and only then given its name.

use std::sync::Arc;

use ekokv_wal::{Disk, Error, Predecessor, planted, read_sealed};

use super::generations::{Generation, Generations};
use super::is_damage;
use super::merge::{Base, Ended, Nothing, merge};
use super::pace::Pace;
use super::runs::{Collector, Refused};
use crate::state::{Fingerprint, Recorded, State};
use crate::store::snapshot::{Bad, DIR, Header, Scan, TMP_SUFFIX, Writer, path_of, verify};

/// Why no snapshot was made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A file that a start would need is not what was written.
    Damage(Error),
    /// The new file could not be written; nothing else is touched.
    Storage(Error),
    /// The store is stopping.
    Stopping,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if is_damage(&error) {
            Self::Damage(error)
        } else {
            Self::Storage(error)
        }
    }
}

impl From<Ended> for Trouble {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Failed(error) => error.into(),
            Ended::Stopped => Self::Stopping,
        }
    }
}

impl From<Bad> for Trouble {
    fn from(bad: Bad) -> Self {
        Error::from(bad).into()
    }
}

/// What a snapshot is made for.
pub(super) struct Order<'a> {
    pub(super) store_id: [u8; 16],
    /// Where the base ends; `None` is the beginning of the log.
    pub(super) from: Option<Predecessor>,
    /// Where the new snapshot ends.
    pub(super) to: Predecessor,
    /// Store time there.
    pub(super) time: u64,
    /// What the live state held there.
    pub(super) fingerprint: Fingerprint,
    /// A run in memory takes about so many bytes.
    pub(super) memory_bytes_max: u64,
    /// How it is done.
    pub(super) pace: &'a mut Pace,
}

/// A snapshot file as the base of a merge.
struct SnapshotBase {
    scan: Scan,
    first: Option<Recorded>,
}

impl SnapshotBase {
    fn open(disk: &dyn Disk, path: &str) -> Result<Self, Bad> {
        let mut scan = Scan::open(disk, path)?;
        // The first key brings all API keys with it.
        let first = scan.next()?;
        Ok(Self { scan, first })
    }
}

impl Base for SnapshotBase {
    fn next(&mut self) -> Result<Option<Recorded>, Error> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => Ok(self.scan.next()?),
        }
    }
}

/// Makes the snapshot that `order` asks for, out of the snapshot at `base` and the log behind it.
pub(super) fn build(
    disk: &Arc<dyn Disk>,
    base: Option<&str>,
    order: &mut Order<'_>,
) -> Result<Generation, Trouble> {
    let path = path_of(order.to.position.sequence);
    let tmp = format!("{path}{TMP_SUFFIX}");
    disk.create_dir(DIR).map_err(Error::io("create", DIR))?;
    disk.sync_dir("").map_err(Error::io("sync", "."))?;
    let made = write(disk, base, &tmp, order).and_then(|()| {
        if planted("log-removed-unverified") {
            let generation = Generation {
                end: order.to,
                bytes: 0,
            };
            Generations::new(vec![generation]).retire(disk.as_ref(), true)?;
        }
        compare(disk, &tmp, order)
    });
    let bytes = match made {
        Ok(bytes) => bytes,
        Err(trouble) => {
            // A start would remove it too.
            let _ = disk.remove(&tmp);
            return Err(trouble);
        }
    };
    disk.rename(&tmp, &path)
        .map_err(Error::io("rename", &path))?;
    if !planted("snapshot-name-unsynced") {
        disk.sync_dir(DIR).map_err(Error::io("sync", DIR))?;
    }
    Ok(Generation {
        end: order.to,
        bytes,
    })
}

fn write(
    disk: &Arc<dyn Disk>,
    base: Option<&str>,
    tmp: &str,
    order: &mut Order<'_>,
) -> Result<(), Trouble> {
    let mut secrets = State::new(0);
    let mut keys: Box<dyn Base> = match base {
        Some(path) => {
            let base = SnapshotBase::open(disk.as_ref(), path)?;
            secrets = secrets.with_keyring(base.scan.keyring().clone());
            Box::new(base)
        }
        None => Box::new(Nothing),
    };
    let memory = usize::try_from(order.memory_bytes_max).unwrap_or(usize::MAX);
    let mut collector = Collector::new(Arc::clone(disk), memory, secrets);
    let mut stopped = false;
    let mut unwritten = None;
    let read = read_sealed(
        disk.as_ref(),
        order.store_id,
        order.from.as_ref(),
        &order.to,
        &mut |_, _, batch| {
            collector.take(batch).map_err(|refused| match refused {
                Refused::Unwritten(error) => unwritten.insert(error).to_string(),
                Refused::Undecoded(reason) => reason,
            })?;
            stopped |= !order.pace.go_on(batch.records.len() as u64);
            if stopped {
                Err("stopped".to_owned())
            } else {
                Ok(())
            }
        },
    );
    if stopped {
        return Err(Trouble::Stopping);
    }
    if let Some(error) = unwritten {
        return Err(Trouble::Storage(error));
    }
    read?;
    let cleared_at = collector.cleared_at;
    let (mut runs, secrets) = collector.finish();
    let header = Header {
        store_id: order.store_id,
        end: order.to,
        time: order.time,
    };
    let mut writer = Writer::create(disk, tmp, &header, secrets.keyring())?;
    merge(
        keys.as_mut(),
        &mut runs,
        cleared_at,
        &mut writer,
        &mut |bytes| order.pace.go_on(bytes),
    )?;
    writer.finish()?;
    Ok(())
}

/// Reads the new file back; it must hold what the live state held. Returns its length.
fn compare(disk: &Arc<dyn Disk>, tmp: &str, order: &mut Order<'_>) -> Result<u64, Trouble> {
    let unverified = |reason: String| {
        let invalid = std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
        Trouble::Storage(Error::io("read back", tmp)(invalid))
    };
    // What does not verify here was written badly: that is no damage to what a start needs.
    let (_, footer) = match verify(disk, tmp, &mut |bytes| order.pace.go_on(bytes)) {
        Err(bad) => return Err(unverified(bad.to_string())),
        Ok(None) => return Err(Trouble::Stopping),
        Ok(Some(found)) => found,
    };
    if footer.fingerprint != order.fingerprint && !planted("snapshot-uncompared") {
        // All files verified, and yet this is not what was served: neither the log nor the snapshot
        // before can be trusted to say it. The live state can.
        return Err(Trouble::Damage(
            Bad::unlike(tmp, &footer.fingerprint, &order.fingerprint).into(),
        ));
    }
    Ok(footer.length)
}
