//! A lone writer's side of the frame: when its handler may commit it, and how it takes it and gives it back.
//!
//! What always holds: from the push that told a handler to commit until it gives the frame back, nobody else
//! takes it; who comes meanwhile, and what is to be done for whom, is told to the committer's thread then.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Frame, Inner, OpenFrame, Sleep};

/// A lone writer's handler commits itself if fewer commands come than one in so long: a busy store has
/// better things for its workers to do than to wait for a disk.
const LONE_COMMAND_TIME: Duration = Duration::from_micros(25);
/// And if the commit before took no longer than this.
pub(super) const LONE_COMMIT_TIME_MAX: Duration = Duration::from_millis(1);
/// And if there is no more to write.
pub(super) const LONE_BYTES_MAX: usize = 64 << 10;
/// If a handler has the log for so long, somebody else must see to what its thread does not do.
pub(super) const LONE_PATIENCE: Duration = Duration::from_millis(10);

/// A lone writer's handler that has the log, or is about to.
pub(super) struct Lone {
    pub(super) since: Instant,
    /// The committer's thread has seen that it takes long.
    pub(super) is_known: bool,
}

impl Inner {
    /// Now, if the writer that has just been queued may commit itself.
    pub(super) fn lone_since(&self, since_last_push: u64) -> Option<Instant> {
        let commands = u32::try_from(since_last_push).unwrap_or(u32::MAX);
        let is_lone = self.sleep == Some(Sleep::Light)
            && self.lone.is_none()
            && self.cut.is_none()
            && !self.closed
            && self.settled
            && self.frame.waiters == 1
            && self.last_group <= 1
            && self.frame.records.len() <= LONE_BYTES_MAX
            && self.took <= LONE_COMMIT_TIME_MAX;
        if !is_lone {
            return None;
        }
        let now = Instant::now();
        let is_quiet = LONE_COMMAND_TIME.saturating_mul(commands) <= now - self.last_sync;
        is_quiet.then_some(now)
    }
}

impl OpenFrame {
    /// Takes the frame for the handler that [`OpenFrame::push`] told to commit; it calls
    /// [`OpenFrame::give_back`] behind [`OpenFrame::release`]. `None`, and nothing to give back, if what is to
    /// be done now is the committer's thread's.
    pub(in crate::store) fn take_lone(&self) -> Option<Frame> {
        let mut inner = self.lock();
        let has_company = inner.frame.waiters > 1 || inner.frame.records.len() > LONE_BYTES_MAX;
        if has_company || inner.failed || inner.cut.is_some() {
            self.end_lone(inner);
            return None;
        }
        let frame = inner.take();
        inner.last_group = 0;
        Some(frame)
    }

    /// The committer's thread may take the frame again.
    pub(in crate::store) fn give_back(&self) {
        self.end_lone(self.lock());
    }

    /// A handler has answered others. If it was told to commit, it leaves that to the committer's thread.
    pub(in crate::store) fn keep_company(&self, is_lone: bool) {
        // Nobody but this thread needs to see it: it is about the tasks that this thread is to wake.
        self.has_company.store(true, Ordering::Relaxed);
        if is_lone {
            self.end_lone(self.lock());
        }
    }

    fn end_lone(&self, mut inner: MutexGuard<'_, Inner>) {
        let was_long = inner.lone.take().is_some_and(|lone| lone.is_known);
        let has_work = inner.frame.count > 0 || inner.cut.is_some() || inner.closed || inner.failed;
        if was_long || has_work {
            self.wake(inner, true);
        }
    }
}
