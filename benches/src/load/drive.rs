//! The loop: whatever is due goes out on a free connection; what comes back is counted.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::connection::Connection;
use crate::keys::Keys;
use crate::latency::Latency;
use crate::nanoseconds;
use crate::pace::Pace;
use crate::request::Requests;

/// A server that answers nothing at all for so long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Connections that may fail before the run does.
const FAILURES_MAX: u64 = 1_000;

const TIMER: Token = Token(usize::MAX);

/// Whom to load.
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
}

/// What came of it.
pub(crate) struct Measured {
    /// All of them, whatever their status.
    pub(crate) answers: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed_ns: u64,
    pub(crate) latency: Latency,
    /// Answers that are not 2xx by status, and connections that failed under a request.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Runs until `pace` is over and all is answered.
///
/// # Errors
/// If the server cannot be reached, says nothing for [`SILENCE_MAX`] or drops too many connections.
pub(crate) fn run(plan: &Plan, requests: Requests, keys: Keys, pace: Pace) -> io::Result<Measured> {
    let poll = Poll::new()?;
    let alarm = Alarm::new(&poll)?;
    let connections = (0..plan.connections)
        .map(|index| Connection::open(plan.address, poll.registry(), Token(index)))
        .collect::<io::Result<Vec<_>>>()?;
    let run = Run {
        address: plan.address,
        poll,
        alarm,
        free: (0..connections.len()).collect(),
        connections,
        requests,
        keys,
        pace,
        measured: Measured {
            answers: 0,
            elapsed_ns: 0,
            latency: Latency::new(),
            errors: BTreeMap::new(),
        },
        failures: 0,
    };
    run.drive()
}

struct Run {
    address: SocketAddr,
    poll: Poll,
    alarm: Alarm,
    connections: Vec<Connection>,
    /// Those without a request under way, the longest idle first.
    free: VecDeque<usize>,
    requests: Requests,
    keys: Keys,
    pace: Pace,
    measured: Measured,
    failures: u64,
}

impl Run {
    fn drive(mut self) -> io::Result<Measured> {
        let start = nanoseconds();
        let mut last_answer = start;
        let mut events = Events::with_capacity(1024);
        self.hand_out(start)?;
        loop {
            let now = nanoseconds();
            let is_idle = self.free.len() == self.connections.len();
            if is_idle && self.pace.is_over(now) {
                break;
            }
            if let Some(time) = self.pace.wakes_at().filter(|_| !self.free.is_empty()) {
                self.alarm.set(time)?;
            }
            match self.poll.poll(&mut events, Some(SILENCE_MAX)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            if events.is_empty() && !is_idle {
                return Err(io::Error::other("the server does not answer any more"));
            }
            for event in &events {
                let Token(index) = event.token();
                if event.token() != TIMER {
                    if event.is_writable()
                        && let Some(connection) = self.connections.get_mut(index)
                        && let Err(error) = connection.flush()
                    {
                        self.fail(index, &error)?;
                    } else if event.is_readable() {
                        self.receive(index, &mut last_answer)?;
                    }
                }
                self.hand_out(nanoseconds())?;
            }
        }
        self.measured.elapsed_ns = last_answer.saturating_sub(start).max(1);
        Ok(self.measured)
    }

    /// Sends all that is due on the connections that are free.
    fn hand_out(&mut self, now: u64) -> io::Result<()> {
        while let Some(&index) = self.free.front() {
            let Some(due) = self.pace.take(now) else {
                break;
            };
            self.free.pop_front();
            let request = self.requests.next(&mut self.keys);
            if let Some(connection) = self.connections.get_mut(index)
                && let Err(error) = connection.send(request, due)
            {
                self.fail(index, &error)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, last_answer: &mut u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        match connection.receive() {
            Ok(None) => Ok(()),
            Ok(Some((status, due))) => {
                let now = nanoseconds();
                *last_answer = now;
                self.measured.answers += 1;
                self.measured.latency.record(now.saturating_sub(due));
                if !(200..300).contains(&status) {
                    *self.measured.errors.entry(status.to_string()).or_default() += 1;
                }
                self.free.push_back(index);
                Ok(())
            }
            Err(error) => self.fail(index, &error),
        }
    }

    /// Counts a connection that failed and puts a new one in its place.
    fn fail(&mut self, index: usize, error: &io::Error) -> io::Result<()> {
        let kind = format!("connection: {error}");
        *self.measured.errors.entry(kind.clone()).or_default() += 1;
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(io::Error::other(kind));
        }
        let fresh = Connection::open(self.address, self.poll.registry(), Token(index))?;
        if let Some(place) = self.connections.get_mut(index) {
            *place = fresh;
        }
        if !self.free.contains(&index) {
            self.free.push_back(index);
        }
        Ok(())
    }
}

/// Wakes the loop at a time, to the microsecond: the timeout of a poll is in milliseconds.
struct Alarm {
    timer: OwnedFd,
    set_for: u64,
}

impl Alarm {
    fn new(poll: &Poll) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let raw = timer.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&raw), TIMER, Interest::READABLE)?;
        Ok(Self { timer, set_for: 0 })
    }

    fn set(&mut self, time: u64) -> io::Result<()> {
        if time == self.set_for {
            return Ok(());
        }
        self.set_for = time;
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: (time / 1_000_000_000) as i64,
                tv_nsec: (time % 1_000_000_000) as i64,
            },
        };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}
