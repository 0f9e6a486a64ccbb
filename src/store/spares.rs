//! The thread that keeps a spare segment ready, off the path of the writes, and looks whether the data
//! dir is still where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ekokv_wal::{Disk, Lock};

use super::options::Failure;
use super::shared::{AbortOnPanic, Shared};

/// Between two pieces of zeros disk and processor belong to others for so long, as long as the present
/// segment has room for more than half of another. The first one of a run never has.
const PACE: Duration = Duration::from_millis(2);
/// After a failure the next try comes so much later; so often the lock is looked at.
const ROUND: Duration = Duration::from_secs(1);

/// Makes a spare now and whenever one is wanted; ends when nobody can want one any more, or when the
/// data dir was taken away.
pub(super) fn run(shared: &Arc<Shared>, wanted: &Receiver<()>, lock: &Lock, disk: &Arc<dyn Disk>) {
    let _abort = AbortOnPanic;
    loop {
        // An error tells nothing: the path may be closed to us, and the lock be where it was.
        if let Ok(false) = lock.in_place() {
            tracing::error!("the data dir was moved or replaced, or its lock removed");
            shared.fail(Failure::Storage(
                "the data dir was moved or replaced, or its lock removed, while it was in use: another \
                 process may use it now, so nothing is written any more. Whether the last changes were \
                 kept is unknown until the next start"
                    .to_owned(),
            ));
            return;
        }
        shared.space.sample(disk.as_ref());
        let prepared = if shared.spares.ready() || shared.space.has_segment(&shared.logged) {
            let prepared = shared.spares.prepare(&mut || pace(shared));
            if let Err(error) = &prepared {
                tracing::warn!(%error, "the next log segment cannot be prepared; it is tried again");
            }
            prepared.is_ok()
        } else {
            // Whatever room there is helps the compaction that makes more.
            if let Err(error) = shared.spares.give_back() {
                tracing::warn!(%error, "space that nothing needs is not given back");
            }
            tracing::warn!(
                missing = shared.space.missing(&shared.logged),
                "there is no room for the next log segment beside the next compaction"
            );
            false
        };
        shared.spare_failed.store(!prepared, Ordering::Relaxed);
        shared.space.sample(disk.as_ref());
        if wanted.recv_timeout(ROUND) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Leaves disk and processor to others for a while; whether to go on after that.
fn pace(shared: &Shared) -> bool {
    let room = shared.room.load(Ordering::Relaxed);
    if room > shared.spares.segment_bytes() / 2 {
        std::thread::sleep(PACE);
    }
    !shared.stopping.load(Ordering::Relaxed)
}
