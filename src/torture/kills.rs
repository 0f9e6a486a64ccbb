//! SIGKILL under writers, during compactions and during recoveries, over and over on the same data.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::draw::Draw;
use super::go_on;
use super::server::{Server, Starting};
use super::writer::Writer;
use crate::store::Failure;

const WRITERS: u64 = 4;
/// A kill waits for so many acknowledgements at most, and for so long.
const ACKNOWLEDGED_MAX: u64 = 400;
const WRITING_TIME_MAX: Duration = Duration::from_secs(5);
/// What is written behind each of the last two snapshots.
const LAST_WRITES: u64 = 100;

/// What came of it.
#[derive(Default)]
pub(super) struct Killed {
    under_writers: u32,
    during_compaction: u32,
    during_recovery: u32,
    acknowledged: u64,
    carried_out: u64,
    absent: u64,
    lost: Vec<String>,
}

impl Killed {
    pub(super) fn lost(&self) -> usize {
        self.lost.len()
    }

    fn kills(&self) -> u32 {
        self.under_writers + self.during_compaction + self.during_recovery
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "kills: {} ({} under writers, {} during a compaction, {} during a recovery)",
                self.kills(),
                self.under_writers,
                self.during_compaction,
                self.during_recovery
            ),
            format!(
                "writes: {} acknowledged, {} lost",
                self.acknowledged,
                self.lost.len()
            ),
            format!(
                "unanswered writes: {} carried out, {} not",
                self.carried_out, self.absent
            ),
        ];
        lines.extend(self.lost.iter().map(|what| format!("lost: {what}")));
        lines
    }
}

/// Kills `kills` servers on the data dir `dir`, and leaves it stopped in order, with two snapshots.
pub(super) fn run(
    dir: &Path,
    kills: u32,
    stop: &AtomicBool,
    draw: &mut Draw,
) -> Result<Killed, Failure> {
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|index| Writer::new(index, draw.next()))
        .collect();
    let mut killed = Killed::default();
    let mut round = 0;
    // How long a start takes, for those that are to be killed meanwhile.
    let mut start_time = Duration::from_millis(10);
    while killed.kills() < kills {
        go_on(stop)?;
        let begin = Instant::now();
        let mut server = Starting::new(dir)?.ready()?;
        start_time = begin.elapsed().min(start_time * 4);
        check(&server, &mut writers, &mut killed)?;
        let compacting = round % 4 == 1;
        write_and_kill(&mut server, &mut writers, compacting, draw)?;
        if compacting {
            killed.during_compaction += 1;
        } else {
            killed.under_writers += 1;
        }
        if round % 4 == 3 && killed.kills() < kills {
            let mut starting = Starting::new(dir)?;
            let micros = draw.below(start_time.as_micros() as u64);
            thread::sleep(Duration::from_micros(micros));
            starting.kill();
            killed.during_recovery += 1;
        }
        round += 1;
    }
    let server = Starting::new(dir)?.ready()?;
    check(&server, &mut writers, &mut killed)?;
    finish(server, &mut writers)?;
    killed.acknowledged = writers.iter().map(|writer| writer.acknowledged).sum();
    Ok(killed)
}

fn check(server: &Server, writers: &mut [Writer], killed: &mut Killed) -> Result<(), Failure> {
    let mut client = server.client()?;
    for writer in writers {
        let outcome = writer.check(&mut client)?;
        killed.carried_out += outcome.carried_out;
        killed.absent += outcome.absent;
        killed.lost.extend(outcome.lost);
    }
    Ok(())
}

/// Lets all writers write, and kills the server in the midst of it.
fn write_and_kill(
    server: &mut Server,
    writers: &mut [Writer],
    compacting: bool,
    draw: &mut Draw,
) -> Result<(), Failure> {
    let (acknowledged, acknowledgements) = channel();
    let (address, token) = (server.address, server.token.clone());
    let token = token.as_str();
    let wanted = 1 + draw.below(ACKNOWLEDGED_MAX);
    thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                let acknowledged = acknowledged.clone();
                scope.spawn(move || writer.write(address, token, &acknowledged))
            })
            .collect();
        if compacting {
            scope.spawn(move || {
                // One behind the other until the server is gone.
                if let Ok(mut client) = super::client::Client::new(address, token) {
                    while client.call("POST", "/api/admin/compact", "").is_ok() {}
                }
            });
        }
        await_writes(&acknowledgements, wanted);
        server.kill();
        for thread in threads {
            thread
                .join()
                .map_err(|_| Failure::Storage("a writer has panicked".to_owned()))??;
        }
        Ok(())
    })
}

fn await_writes(acknowledgements: &Receiver<()>, wanted: u64) {
    let end = Instant::now() + WRITING_TIME_MAX;
    for _ in 0..wanted {
        let left = end.saturating_duration_since(Instant::now());
        if acknowledgements.recv_timeout(left).is_err() {
            return;
        }
    }
}

/// Two snapshots, something in the log behind each, and a stop in order.
fn finish(server: Server, writers: &mut [Writer]) -> Result<(), Failure> {
    let mut client = server.client()?;
    for _ in 0..2 {
        let answer = client
            .call("POST", "/api/admin/compact", "")
            .map_err(|error| Failure::Storage(format!("a compaction is not answered: {error}")))?;
        if answer.status != 200 {
            return Err(Failure::Storage(format!(
                "a compaction is answered with {}: {}",
                answer.status, answer.body
            )));
        }
        for writer in writers.iter_mut() {
            for _ in 0..LAST_WRITES / WRITERS {
                writer.write_one(&mut client)?;
            }
        }
    }
    drop(client);
    server.stop()
}
