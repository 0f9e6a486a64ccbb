//! The program: arguments to settings to a server, and its end to an exit code.

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use ekokv::clock::{Clock, SystemClock};
use ekokv::config::{Config, Flags};
use ekokv::logging;
use ekokv::server;
use ekokv::store::{Failure, inspect};
use ekokv::torture;
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Faster than the system's where one thread frees what another took; the next request gets the block that
/// the last one gave back, which the caches still hold. `.cargo/config.toml` sets it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// SIGXFSZ on Linux: a write beyond the limit on file sizes.
const SIGNAL_FILE_TOO_LARGE: i32 = 25;

/// A key-value server with the KV REST API of ekoDB.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Serves; the same as no command at all
    Serve(Box<Flags>),
    /// Says of each file of a data dir whether it is whole, and whether a start would work
    ///
    /// Nothing is changed, and a server may have the data dir open. Exit code 0 if a start would work with
    /// nothing lost, whatever files it does not need are like; 65 if the data is damaged; 74 if the disk
    /// does not hand it over.
    Check {
        /// The data dir
        dir: PathBuf,
    },
    /// Prints the keys of a data dir, one JSON object a line; changes nothing
    ///
    /// {"key", "value", "version"} and, where there is one, "expires_at", "form": "envelope" and "links", in
    /// byte order of the keys; {"key", "expires_at", "expired": true} for a key that has expired and is
    /// remembered. API keys are not printed. What a start would refuse is refused.
    Dump {
        /// The data dir
        dir: PathBuf,
    },
    /// Prints the log of a data dir, batch by batch; changes nothing
    Wal {
        /// The data dir
        dir: PathBuf,
    },
    /// Writes what can be saved of a damaged data dir into a new one, and lists what is lost
    ///
    /// The damaged data dir is only read. Exit code 0 if nothing is lost, 65 if something is: what is left is
    /// saved all the same.
    Salvage {
        /// The damaged data dir
        dir: PathBuf,
        /// The new one: a directory that is empty or not there yet
        new_dir: PathBuf,
    },
    /// Kills servers on a disk over and over, damages their files, and prints whether anything was lost
    ///
    /// The servers are its own, below the directory that is named. Exit code 65 if anything that was
    /// acknowledged was lost, or damage was served in silence.
    Torture {
        /// A directory on that disk; what is written there meanwhile is removed again
        dir: PathBuf,
        #[command(flatten)]
        plan: torture::Plan,
    },
}

/// Why the program ends; the numbers are a promise to supervisors, those of sysexits.h where there
/// is one. Usage errors end with 2 by clap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Clean = 0,
    Damaged = 65,
    Storage = 74,
    InUse = 75,
    Settings = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Failure> for Exit {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Damaged(_) => Self::Damaged,
            Failure::Storage(_) => Self::Storage,
            Failure::Locked(_) => Self::InUse,
            Failure::Settings(_) => Self::Settings,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::to_stderr();
    let exit = match arguments.command {
        None => serve(&arguments.flags),
        Some(Task::Serve(flags)) => serve(&flags),
        Some(Task::Check { dir }) => end(inspect::check(&dir, &mut io::stdout().lock())),
        Some(Task::Dump { dir }) => dump(&dir),
        Some(Task::Wal { dir }) => end(inspect::print(&dir, &mut io::stdout().lock())),
        Some(Task::Salvage { dir, new_dir }) => {
            let now = SystemClock.now_ms();
            end(inspect::salvage(
                &dir,
                &new_dir,
                now,
                &mut io::stdout().lock(),
            ))
        }
        Some(Task::Torture { dir, plan }) => torture(&dir, &plan),
    };
    logging::flush();
    exit.into()
}

/// Serves until a signal or a failure.
fn serve(flags: &Flags) -> Exit {
    let config = match Config::load(flags, std::env::vars_os()) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems.sentences() {
                tracing::error!("{problem}");
            }
            return Exit::Settings;
        }
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return Exit::Storage;
        }
    };
    let exit = runtime.block_on(listen(config));
    // What still runs after a failure may hang on a disk; the end of the process ends it.
    runtime.shutdown_background();
    exit
}

async fn listen(config: Config) -> Exit {
    let stop = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return Exit::Storage;
        }
    };
    let listener = match TcpListener::bind(&config.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("cannot listen on {}: {error}", config.listen);
            return match error.kind() {
                io::ErrorKind::AddrInUse => Exit::InUse,
                _ => Exit::Settings,
            };
        }
    };
    end(server::run(listener, config, Arc::new(SystemClock), stop.received()).await)
}

/// Prints the state, and on stderr how much that was.
fn dump(dir: &Path) -> Exit {
    let mut out = BufWriter::new(io::stdout().lock());
    end(
        inspect::dump(dir, SystemClock.now_ms(), &mut out).map(|dumped| {
            tracing::info!(
                keys = dumped.keys,
                expired = dumped.expired,
                links = dumped.links,
                last_sequence = dumped.last_sequence,
                "dumped"
            );
        }),
    )
}

/// Tortures until it is done or a signal comes.
fn torture(dir: &Path, plan: &torture::Plan) -> Exit {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return Exit::Storage;
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // Before there is anything that a signal could leave behind.
    let entered = runtime.enter();
    match Signals::new() {
        Ok(signals) => {
            runtime.spawn(async move {
                signals.received().await;
                stopped.store(true, Ordering::Relaxed);
            });
        }
        Err(error) => tracing::warn!(%error, "cannot listen for signals"),
    }
    drop(entered);
    let exit = end(torture::run(dir, plan, &stop, &mut io::stdout().lock()));
    runtime.shutdown_background();
    exit
}

/// Tells why a task failed, if it did.
fn end(outcome: Result<(), Failure>) -> Exit {
    match outcome {
        Ok(()) => Exit::Clean,
        Err(failure) => {
            tracing::error!("{failure}");
            Exit::from(&failure)
        }
    }
}

/// The signals that stop the server.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // Having a handler at all turns the signal into the error of the write that caused it.
        drop(signal(SignalKind::from_raw(SIGNAL_FILE_TOO_LARGE))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
