//! Rescue: a damaged file has been found, and the state in memory is whole. It is written out in slices
//! while it is served and changed, and closed by the log that is written meanwhile.
//!
//! Why the result is the state at its end: a slice holds each of its keys as of some sequence, and each
//! key's version says which changes of it are in there. The log since before the first slice holds all
//! others. A key that a slice does not have was gone then, and whatever the log says of it before that
//! ends in its going.

use std::sync::mpsc::sync_channel;
use std::time::Instant;

use ekokv_wal::{Error, Predecessor};

use super::build::{Trouble, build};
use super::pace::Pace;
use super::{Compactor, Generation, try_set_aside};
use crate::state::Recorded;
use crate::store::chore::{Chore, Rotated};
use crate::store::snapshot::{DIR, Header, TMP_SUFFIX, Writer};

impl Compactor {
    /// Makes a snapshot of the live state, without any older file, and sets the damaged one aside.
    /// Returns its last sequence.
    pub(super) fn rescue(&mut self, damage: Error, pace: &mut Pace) -> Result<u64, Trouble> {
        tracing::error!(
            %damage,
            "damage on the disk; the state in memory is whole and is written out anew"
        );
        self.shared
            .unrepaired
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let started = Instant::now();
        let (made, closed) = match self.write_out(pace) {
            Ok(rescued) => rescued,
            Err(trouble) => {
                // No compaction must forget it.
                self.damage = Some(damage);
                return Err(trouble);
            }
        };
        let sequence = made.sequence();
        // One of the same name has just been replaced.
        let replaced = made.path();
        self.publish(made, &closed, started);
        match &damage {
            Error::Damaged(at) if at.file == replaced => {}
            Error::Unreadable { file, .. } if *file == replaced => {}
            _ => try_set_aside(&self.disk, &damage),
        }
        // What came before the damage cannot be fallen back on.
        self.generations.give_up_older();
        self.retire(true);
        Ok(sequence)
    }

    /// The state in slices, and what is logged meanwhile, into a new snapshot.
    fn write_out(&mut self, pace: &mut Pace) -> Result<(Generation, Rotated), Trouble> {
        // Slices and snapshot are there together, each about as long as the snapshot before.
        let missing = self.shared.space.missing_for_rescue(&self.shared.logged);
        if missing > 0 {
            let reason = format!("{missing} more bytes must be free to write the state out anew");
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, reason);
            return Err(Error::io("rescue", "the state")(full).into());
        }
        let begun = self.rotate()?;
        // A log without an end of a segment is a new one, and nothing of it was read.
        let from = begun.end.ok_or(Trouble::Stopping)?;
        let slices = format!("{DIR}/rescue{TMP_SUFFIX}");
        let rescued = self
            .write_slices(&slices, from, begun.time, pace)
            .and_then(|()| {
                let closed = self.rotate()?;
                let to = closed.end.unwrap_or(from);
                let mut order = self.order(Some(from), &closed, to, pace);
                let made = build(&self.disk, Some(&slices), &mut order)?;
                Ok((made, closed))
            });
        let _ = self.disk.remove(&slices);
        rescued
    }

    fn write_slices(
        &self,
        path: &str,
        end: Predecessor,
        time: u64,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let header = Header {
            store_id: self.store_id,
            end,
            time,
        };
        let keyring = self.shared.keyring();
        self.disk
            .create_dir(DIR)
            .map_err(Error::io("create", DIR))?;
        let mut writer = Writer::create(&self.disk, path, &header, &keyring)?;
        let mut after = None;
        loop {
            let (reply, replied) = sync_channel(1);
            self.shared.mailbox.assign(Chore::Keys {
                after: after.clone(),
                reply,
            });
            let keys = replied.recv().map_err(|_| Trouble::Stopping)?;
            let Some((last, _)) = keys.last() else {
                break;
            };
            after = Some(last.clone());
            let before = writer.bytes();
            for (key, kept) in keys {
                writer.push(&Recorded::of(key, kept))?;
            }
            if !pace.go_on(writer.bytes() - before) {
                return Err(Trouble::Stopping);
            }
        }
        writer.finish()?;
        Ok(())
    }
}
