//! The thread that keeps a spare segment ready, off the path of the writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::shared::{AbortOnPanic, Shared};

/// Between two pieces of zeros the disk belongs to others for so long.
const PACE: Duration = Duration::from_millis(2);
/// After a failure the next try comes so much later.
const RETRY: Duration = Duration::from_secs(1);

/// Makes a spare now and whenever one is wanted; ends when nobody can want one any more.
pub(super) fn run(shared: &Arc<Shared>, wanted: &Receiver<()>) {
    let _abort = AbortOnPanic;
    loop {
        let failed = match shared.spares.prepare(&mut || pace(shared)) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "the next log segment cannot be prepared; it is tried again");
                true
            }
        };
        shared.spare_failed.store(failed, Ordering::Relaxed);
        let next = if failed {
            wanted.recv_timeout(RETRY)
        } else {
            wanted.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        if next == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Leaves the disk to others for a while; whether to go on after that.
fn pace(shared: &Shared) -> bool {
    std::thread::sleep(PACE);
    !shared.stopping.load(Ordering::Relaxed)
}
