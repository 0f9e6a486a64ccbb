//! Store time: what the wall clock says, as far as it can be believed.
//!
//! A deadline that was passed in error is data lost, and a store time that ran far ahead can never
//! be taken back. So one wrong answer of a time server must not end every deadline. The wall clock
//! is held against the time since boot, which nobody can set.
//!
//! What always holds:
//! - The *logged* time, which batches carry and by which keys are purged, never runs back, over
//!   restarts too.
//! - The *shown* time, by which readers see a key or not, is the logged time; only at a start it may
//!   be ahead, and only then can it run back, to no less than the logged time.
//! - Both go on by about as much as time passes since boot, whatever the wall clock does.
//!
//! While the store runs:
//! - A wall clock that is ahead of what the time since boot confirms by at most [`STEP_MS`] within
//!   [`WINDOW_MS`] is followed. The time since boot is slewed like the wall clock, so the two part by
//!   steps only: time servers correct by less than a second, a leap second is one, waking up costs
//!   one, and a clock that is corrected by steps alone loses less than a second an hour. What a
//!   believed error costs is a deadline that ends five seconds early.
//! - One that is further ahead is a *leap*. It is neither shown nor logged before it has held for the
//!   grace time; until then time goes on by the time since boot. If the wall clock comes back,
//!   nothing has happened; if it leaps again, the grace begins again.
//! - One that is behind is not waited for: a life of a minute ends after a minute, even though the
//!   clock was set back by an hour. Instead time passes by a hundredth slower, so that the wall clock
//!   catches up and takes over again some day; until it does, absolute deadlines come early.
//!
//! At a start nothing says how long the store was down. A wall clock that is behind the log's last
//! time changes nothing: time goes on from there, as above. One that is ahead by up to [`DAY_MS`] is
//! believed. One that is further ahead is shown (most often it is right, and what expired long ago
//! must not be served), but for the grace time batches carry the log's last time and what has passed
//! since, and what only the leap hides is not purged. Taken back within the grace, it shows again
//! what it hid: this is as if the store started at that moment.

use ekokv_wal::planted;

use crate::clock::Moment;

/// A wall clock is followed ahead of the time since boot by this much in a window.
pub(super) const STEP_MS: u64 = 5_000;
const WINDOW_MS: u64 = 3_600_000;
/// So far ahead of the log's last time the wall clock is believed at a start.
const DAY_MS: u64 = 24 * 3_600_000;
/// Time passes slower by one part of so many while the wall clock is behind.
const SLOWER: u64 = 100;

/// A store time that goes on by the time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Milliseconds since the Unix epoch.
    time: u64,
    boot: u64,
}

impl Point {
    pub(super) fn new(time: u64, boot: u64) -> Self {
        Self { time, boot }
    }

    /// Where it begins.
    pub(super) fn time(self) -> u64 {
        self.time
    }

    /// By how many milliseconds this course is ahead of another.
    pub(super) fn ahead_of(self, other: Self) -> i64 {
        let boot = self.boot.max(other.boot);
        let (this, other) = (self.at(boot), other.at(boot));
        let by = i64::try_from(this.abs_diff(other)).unwrap_or(i64::MAX);
        if this >= other { by } else { -by }
    }

    /// The time when `boot` milliseconds have passed since boot.
    pub(super) fn at(self, boot: u64) -> u64 {
        self.time.saturating_add(boot.saturating_sub(self.boot))
    }

    fn slower_at(self, boot: u64) -> u64 {
        let passed = boot.saturating_sub(self.boot);
        self.time
            .saturating_add(passed.saturating_sub(passed / SLOWER))
    }
}

/// A leap of the wall clock that is not confirmed yet.
#[derive(Debug, Clone, Copy)]
struct Leap {
    to: Point,
    since: u64,
}

/// What only the log's last time is known to be true of, at a start.
#[derive(Debug, Clone, Copy)]
struct Start {
    logged: Point,
    since: u64,
}

/// Store time as of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    /// What readers see, in milliseconds since the Unix epoch.
    pub(super) shown: u64,
    /// What batches carry and purging goes by, in milliseconds since the Unix epoch.
    pub(super) logged: u64,
}

/// What happened to the wall clock; each is told of once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It is ahead by so many milliseconds that nothing confirms.
    Leapt(u64),
    /// It came back before the grace was over.
    TakenBack,
    /// It was ahead for the whole grace, and counts now.
    Accepted,
    /// It is behind store time by so many milliseconds.
    Behind(u64),
    /// It has caught up with store time.
    CaughtUp,
}

/// Store time, see the head of this module. Pure: it is told what the clocks show.
#[derive(Debug)]
pub(super) struct StoreClock {
    grace_ms: u64,
    time: Time,
    boot: u64,
    /// The course of the shown time since the wall clock was followed last.
    course: Point,
    /// The wall clock is behind, so the course is a slower one.
    slow: bool,
    /// Where the window began: a wall clock further ahead of this than a step is a leap.
    window: Point,
    leap: Option<Leap>,
    start: Option<Start>,
    behind: bool,
    events: Vec<Event>,
}

impl StoreClock {
    /// The clock of a store whose log ends at `last` (`None`: it has no log yet).
    pub(super) fn new(grace_ms: u64, last: Option<u64>, now: Moment) -> Self {
        let last = last.unwrap_or(now.wall_ms);
        let boot = now.boot_ms;
        let shown = now.wall_ms.max(last);
        let ahead = shown.saturating_sub(last);
        let start = (ahead > DAY_MS && grace_ms > 0).then_some(Start {
            logged: Point { time: last, boot },
            since: boot,
        });
        let logged = if start.is_some() { last } else { shown };
        let point = Point { time: shown, boot };
        let behind = last.saturating_sub(now.wall_ms);
        let mut events = Vec::new();
        if start.is_some() {
            events.push(Event::Leapt(ahead));
        } else if behind > STEP_MS {
            events.push(Event::Behind(behind));
        }
        Self {
            grace_ms,
            time: Time { shown, logged },
            boot,
            course: point,
            slow: now.wall_ms < last,
            window: point,
            leap: None,
            start,
            behind: behind > STEP_MS,
            events,
        }
    }

    /// Store time as of the last moment that was told.
    pub(super) fn time(&self) -> Time {
        self.time
    }

    /// Whether there is a leap that may yet be taken back.
    pub(super) fn in_doubt(&self) -> bool {
        self.leap.is_some() || self.start.is_some()
    }

    /// The course of the shown time.
    pub(super) fn course(&self) -> Point {
        Point::new(self.time.shown, self.boot)
    }

    /// Whether the shown time may yet be taken back.
    pub(super) fn may_run_back(&self) -> bool {
        self.start.is_some()
    }

    /// What has happened since this was asked last.
    pub(super) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Store time now.
    pub(super) fn tell(&mut self, now: Moment) -> Time {
        self.boot = self.boot.max(now.boot_ms);
        let (wall, boot) = (now.wall_ms, self.boot);
        let going_on = if self.slow {
            self.course.slower_at(boot)
        } else {
            self.course.at(boot)
        };
        if let Some(start) = self.start
            && wall.saturating_add(STEP_MS) < going_on
        {
            return self.take_back(start.logged.at(boot), now);
        }
        let confirmed = self.window.at(boot).saturating_add(STEP_MS);
        if wall > confirmed && !planted("leap-is-believed") {
            self.leaps(wall, going_on);
        } else {
            if self.leap.take().is_some() {
                self.events.push(Event::TakenBack);
            }
            self.follows(wall, going_on);
            if boot.saturating_sub(self.window.boot) >= WINDOW_MS {
                self.window = Point {
                    time: wall.max(going_on),
                    boot,
                };
            }
        }
        if self.leap.is_none() && self.start.is_some_and(|start| self.has_held(start.since)) {
            self.start = None;
            self.events.push(Event::Accepted);
        }
        let shown = if self.slow {
            self.course.slower_at(boot)
        } else {
            self.course.at(boot)
        };
        let shown = shown.max(self.time.shown);
        let logged = self.start.map_or(shown, |start| start.logged.at(boot));
        self.time = Time {
            shown,
            logged: logged.max(self.time.logged),
        };
        self.time
    }

    /// The wall clock was wrong when the store started: begins again at what it shows now.
    fn take_back(&mut self, logged: u64, now: Moment) -> Time {
        let now = Moment {
            boot_ms: self.boot,
            ..now
        };
        let again = Self::new(self.grace_ms, Some(logged.max(self.time.logged)), now);
        let mut events = self.events();
        events.push(Event::TakenBack);
        events.extend(&again.events);
        *self = Self { events, ..again };
        self.time
    }

    /// The wall clock is further ahead than can be: time goes on without it.
    fn leaps(&mut self, wall: u64, going_on: u64) {
        let boot = self.boot;
        let known = self
            .leap
            .filter(|leap| leap.to.at(boot).abs_diff(wall) <= STEP_MS);
        let leap = known.unwrap_or_else(|| {
            self.events
                .push(Event::Leapt(wall.saturating_sub(going_on)));
            // Of two times that contradict each other neither has held.
            if let Some(start) = &mut self.start {
                start.since = boot;
            }
            Leap {
                to: Point { time: wall, boot },
                since: boot,
            }
        });
        self.slow = false;
        self.behind = false;
        if self.has_held(leap.since) {
            self.course = Point { time: wall, boot };
            self.window = self.course;
            self.leap = None;
            self.start = None;
            self.events.push(Event::Accepted);
        } else {
            self.course = Point {
                time: going_on,
                boot,
            };
            self.leap = Some(leap);
        }
    }

    fn has_held(&self, since: u64) -> bool {
        self.boot.saturating_sub(since) >= self.grace_ms
    }

    /// Time is the wall clock's, or goes on slowly until that has caught up.
    fn follows(&mut self, wall: u64, going_on: u64) {
        let boot = self.boot;
        if wall >= going_on {
            self.course = Point { time: wall, boot };
            self.slow = false;
            if std::mem::take(&mut self.behind) {
                self.events.push(Event::CaughtUp);
            }
            return;
        }
        if !self.slow {
            self.course = Point {
                time: going_on,
                boot,
            };
            self.slow = true;
        }
        let by = going_on.saturating_sub(wall);
        if by > STEP_MS && !self.behind {
            self.behind = true;
            self.events.push(Event::Behind(by));
        }
    }
}

#[cfg(test)]
mod tests;
