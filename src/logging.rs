//! The program's log: lines that a thread of its own writes to stderr.
//!
//! Whoever reads the log may stop reading: a paused terminal, a collector that hangs behind a pipe. A thread
//! that writes there then waits for as long as that lasts, and no request must do so. Lines are queued instead,
//! up to 4 MiB; further ones are lost, and how many is said when lines go out again.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Some ten thousand lines.
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// What a queue that was long keeps of its buffers.
const KEPT_BYTES: usize = 64 << 10;
/// How long the end of the process, or what may become it, waits for the last lines to leave.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// The one queue; without one, lines are written where they come up.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Sends the log to stderr from now on: as text to a person, else as one JSON object a line. Called once.
pub fn to_stderr() {
    let queue = Arc::new(Queue::default());
    let drained = Arc::clone(&queue);
    let writer = thread::Builder::new().name("log".to_owned());
    let writing = writer.spawn(move || {
        drained.drain(&mut io::stderr(), |lost| {
            tracing::warn!(
                lines = lost,
                "lines of the log were lost, for nobody read it"
            );
        });
    });
    if writing.is_ok() {
        // There is none before.
        let _ = QUEUE.set(queue);
    }
    // Whoever read the log may have gone. By default that is reported on stderr, which then panics.
    let log = tracing_subscriber::fmt()
        .with_writer(|| Line)
        .log_internal_errors(false);
    if io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().init();
    }
    // The message of a panic may quote a value; the place is enough to find the defect.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "panic");
        // The process may be about to end.
        flush();
    }));
}

/// Writes a text to where the log goes, behind the lines before it.
pub(crate) fn print(text: &str) {
    // Nobody may be there to read it.
    let _ = Line.write_all(text.as_bytes());
}

/// Waits until all lines have left, but not for a reader that does not read.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIME_MAX);
    }
}

/// A line on its way into the queue; it comes in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => {
                queue.push(bytes);
                Ok(bytes.len())
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines between those who write them and the thread that has them leave.
#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Lines that there was no room for since that was last said.
    lost: u64,
    /// Some have been taken out and not left yet.
    is_leaving: bool,
}

impl Queue {
    /// Queues a line, or counts it as lost.
    fn push(&self, line: &[u8]) {
        let mut lines = self.lock();
        if lines.text.len().saturating_add(line.len()) > QUEUED_BYTES_MAX {
            lines.lost = lines.lost.saturating_add(1);
            return;
        }
        lines.text.extend_from_slice(line);
        drop(lines);
        self.changed.notify_all();
    }

    /// Writes what is queued to `out`, for as long as the process lives. What is lost meanwhile is told to `tell`.
    fn drain(&self, out: &mut impl Write, tell: impl Fn(u64)) {
        let mut text = Vec::new();
        loop {
            let is_idle = |lines: &mut Lines| lines.text.is_empty();
            let waited = self.changed.wait_while(self.lock(), is_idle);
            let mut lines = waited.unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut text, &mut lines.text);
            let lost = mem::take(&mut lines.lost);
            lines.is_leaving = true;
            drop(lines);
            // Now there is room for that as well, behind what was kept.
            if lost > 0 {
                tell(lost);
            }

            // A reader that has gone is no reason to end.
            let _ = out.write_all(&text);
            text.clear();
            text.shrink_to(KEPT_BYTES);

            self.lock().is_leaving = false;
            self.changed.notify_all();
        }
    }

    /// Waits until nothing is queued, at most for `patience`.
    fn flush(&self, patience: Duration) {
        let is_busy = |lines: &mut Lines| lines.is_leaving || !lines.text.is_empty();
        // In time or not, there is nothing to be done about it.
        let _ = self
            .changed
            .wait_timeout_while(self.lock(), patience, is_busy);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A reader that says what it reads, and reads on when it is told to.
    struct Reader {
        read: Sender<String>,
        go_on: Receiver<()>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.read
                .send(String::from_utf8(bytes.to_vec()).unwrap())
                .unwrap();
            let _ = self.go_on.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
        let queue = Arc::new(Queue::default());
        let (read, reads) = channel();
        let (go_on, going_on) = channel();
        let drained = Arc::clone(&queue);
        let telling = Arc::clone(&queue);
        thread::spawn(move || {
            let mut reader = Reader {
                read,
                go_on: going_on,
            };
            drained.drain(&mut reader, |lost| {
                telling.push(format!("{lost} lost\n").as_bytes());
            });
        });
        queue.push(b"first\n");
        assert_eq!(reads.recv_timeout(PATIENCE).unwrap(), "first\n");
        queue.flush(Duration::ZERO);

        let line = vec![b'x'; QUEUED_BYTES_MAX / 4];
        for _ in 0..6 {
            queue.push(&line);
        }
        queue.push(b"one more\n");
        go_on.send(()).unwrap();
        assert_eq!(
            reads.recv_timeout(PATIENCE).unwrap().len(),
            QUEUED_BYTES_MAX
        );
        queue.push(b"last\n");
        drop(go_on);
        assert_eq!(reads.recv_timeout(PATIENCE).unwrap(), "3 lost\nlast\n");
        queue.flush(PATIENCE);
        assert!(queue.lock().text.is_empty());
        assert!(!queue.lock().is_leaving);
    }
}
