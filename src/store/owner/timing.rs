//! What the time asks of the owner: keys that are due are purged, and deadlines that rested on a leap are
//! moved back when it is taken back.
//!
//! What always holds: time is told before commands are carried out, and what is due is logged then, so
//! that an answer by which a deadline hides something waits until the log knows that it has passed.

use std::collections::BTreeMap;
use std::slice;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ekokv_wal::planted;

use super::Owner;
use crate::state::{Key, Mutation};
use crate::store::command::{Command, Ttl};
use crate::store::plan::Now;
use crate::store::provisional::Provisional;
use crate::store::store_clock::Time;

/// Keys that are purged between two looks into the mailbox, so that no command waits for a long purge.
const PURGE_KEYS_MAX: usize = 256;
/// And of so many bytes, and one: together they fit into any segment.
const PURGE_BYTES_MAX: u64 = 64 << 10;
/// Keys and values whose deadlines are moved are logged so many bytes at a time.
const MOVED_BYTES_MAX: usize = 256 << 10;
/// The owner looks at the clock at least so often, also if nobody asks for anything: it may be set, and
/// how long a leap has held counts from when it is seen.
const CLOCK_PATIENCE: Duration = Duration::from_secs(1);
/// And so often while records are being moved together, a few each time.
const TIDY_PATIENCE: Duration = Duration::from_millis(1);
/// When the log takes no purge it is tried again after so long.
const PURGE_RETRY: Duration = Duration::from_millis(20);

impl Owner {
    /// How long the owner's thread may sleep before it looks at deadlines again.
    pub(in crate::store) fn patience(&mut self) -> Duration {
        let patience = self.time_to_look();
        self.progress.looks_at = self.logged.saturating_add(patience.as_millis() as u64);
        patience
    }

    /// Whether the owner's thread, asleep, would look at deadlines too late; it is called once.
    pub(in crate::store) fn is_due_earlier(&mut self) -> bool {
        // Most turns change nothing here, and this is on the path of all.
        let is_due = self
            .state
            .next_due()
            .is_some_and(|due| due < self.progress.looks_at);
        if !is_due && !self.progress.refused && !self.provisional.is_settled() {
            return false;
        }
        let patience = self.time_to_look();
        let at = self.logged.saturating_add(patience.as_millis() as u64);
        let is_earlier = at < self.progress.looks_at;
        if is_earlier {
            self.progress.looks_at = at;
        }
        is_earlier
    }

    /// From now until something is due.
    fn time_to_look(&self) -> Duration {
        let now = self.logged;
        let due = self.state.next_due();
        if self.provisional.is_settled() || due.is_some_and(|due| due <= now) {
            return if self.progress.refused {
                PURGE_RETRY
            } else {
                Duration::ZERO
            };
        }
        let longest = if self.state.is_sparse() {
            TIDY_PATIENCE
        } else {
            CLOCK_PATIENCE
        };
        due.map_or(longest, |due| {
            Duration::from_millis(due.saturating_sub(now)).min(longest)
        })
    }

    /// Looks at the clocks, and does what the time asks for. Says whether the log had no room for it.
    pub(super) fn tell_time(&mut self) -> bool {
        let Time { shown, logged } = self.timekeeper.tell(&self.shared);
        self.logged = logged;
        self.shared.time.store(logged, Ordering::Relaxed);
        let unsettled = !self.provisional.is_empty() && !self.provisional.is_settled();
        if unsettled && !self.timekeeper.may_run_back() {
            self.provisional.settle(self.timekeeper.course());
        }
        let refused = self.move_deadlines_back() || self.purge();
        // Without a purge the frame itself can tell the time, if there is to be one. If there is none,
        // the log is full up to the last byte, and the answer is given all the same.
        if refused && self.shared.frame.touch(self.logged) {
            self.carried = self.applied;
        }
        let is_hidden = |due| due <= logged;
        let hiding =
            if self.state.next_due().is_some_and(is_hidden) && !planted("hidden-before-logged") {
                self.carried
            } else {
                0
            };
        self.now = Now {
            shown,
            logged,
            hiding,
        };
        refused
    }

    /// Links change an entry's version and not its deadline.
    pub(super) fn follow_provisional(&mut self, mutation: &Mutation<'_>) {
        if self.provisional.is_empty() {
            return;
        }
        if let Mutation::Link { key, .. } | Mutation::Unlink { key, .. } = mutation
            && let Some(entry) = self.state.live(key, 0)
        {
            self.provisional.follow(entry.version, self.applied);
        }
    }

    /// Drops values whose deadline has passed and forgets keys that were remembered long enough, a
    /// slice of them. Says whether the log had no room for it.
    fn purge(&mut self) -> bool {
        if self.state.next_due().is_none_or(|due| due > self.logged) {
            return false;
        }
        let due = self.state.due(self.logged, PURGE_KEYS_MAX);
        let mut bytes = 0u64;
        let mutations: Vec<Mutation<'_>> = due
            .iter()
            .map(|due| due.mutation())
            .take_while(|mutation| {
                let fits = bytes <= PURGE_BYTES_MAX;
                bytes = bytes.saturating_add(mutation.encoded_len() as u64);
                fits
            })
            .collect();
        if self.admit(&mutations).is_err() {
            return true;
        }
        self.log_unasked(&mutations);
        false
    }

    /// Applies and logs what nobody waits for.
    fn log_unasked(&mut self, mutations: &[Mutation<'_>]) {
        self.apply(mutations);
        let frame = &self.shared.frame;
        frame.push(mutations, self.applied, self.logged, None, false, None);
        self.carried = self.applied;
    }

    /// If the time may yet be taken back, remembers which of the deadlines that a command set count
    /// from it.
    pub(super) fn note_provisional(&mut self, command: &Command) {
        if !self.timekeeper.may_run_back() {
            return;
        }
        let puts = match command {
            Command::Set { put, .. } => slice::from_ref(put),
            Command::BatchSet { puts } => puts,
            _ => return,
        };
        // Of equal keys the last is stored, and those that are have the last sequences.
        let last: BTreeMap<&str, usize> =
            (0..).zip(puts).map(|(at, put)| (&*put.key, at)).collect();
        let mut stored: Vec<usize> = last.into_values().collect();
        stored.sort_unstable();
        let first = (self.applied + 1).saturating_sub(stored.len() as u64);
        for (sequence, at) in (first..).zip(stored) {
            if puts
                .get(at)
                .is_some_and(|put| matches!(put.ttl, Ttl::After(_)))
            {
                self.provisional.note(self.timekeeper.course(), sequence);
            }
        }
    }

    /// Moves provisional deadlines back after a leap was taken back; all of them before anybody reads,
    /// or a key that has lived its life would be shown once more. Says whether the log had no room.
    fn move_deadlines_back(&mut self) -> bool {
        while self.provisional.is_settled() {
            let (deadline, version) = self.provisional.begin();
            let mut rest = self.state.expiring_from(deadline, version);
            let mut bytes = 0;
            let mut moved = Vec::new();
            let mut next = rest.next();
            while moved.len() < PURGE_KEYS_MAX
                && bytes < MOVED_BYTES_MAX
                && let Some((key, entry)) = next
            {
                if let (Some(back_ms), Some(deadline)) =
                    (self.provisional.back_ms(entry.version), entry.deadline)
                {
                    bytes += key.len() + entry.value.len();
                    let deadline = deadline.saturating_sub(back_ms);
                    moved.push((Key::from(key), entry.value.to_bytes(), entry.form, deadline));
                }
                next = rest.next();
            }
            let next = next.map(|(_, entry)| (entry.deadline.unwrap_or(u64::MAX), entry.version));
            drop(rest);
            let puts: Vec<Mutation<'_>> = moved
                .iter()
                .map(|(key, value, form, deadline)| Mutation::Put {
                    key,
                    value: value.into(),
                    form: *form,
                    deadline: Some(*deadline),
                })
                .collect();
            if !puts.is_empty() {
                if self.admit(&puts).is_err() {
                    return true;
                }
                self.log_unasked(&puts);
            }
            match next {
                Some((deadline, version)) => self.provisional.go_on_from(deadline, version),
                None => self.provisional = Provisional::default(),
            }
        }
        false
    }
}
