//! A load generator that costs less than what it loads: one thread, non-blocking sockets, requests
//! that are patched into one buffer. `benches/compare` runs it; each run prints one line of JSON.
//!
//! - A connection has one request under way at a time; nothing is pipelined.
//! - In a closed loop the next request leaves when an answer has come. In an open loop requests are due
//!   at fixed times, whatever the server does, and a latency counts from when its request was due.

mod connection;
mod drive;
mod keys;
mod latency;
mod pace;
mod probe;
mod request;
mod response;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rustix::time::{ClockId, clock_gettime};

use drive::Plan;
use keys::{Keys, Order};
use pace::Pace;
use request::{Op, Requests};

/// Loads a server on this machine, or measures what a write and a sync cost
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The next request leaves when an answer has come
    Closed(Load),
    /// Requests are due at a fixed rate; a latency counts from when its request was due
    Open {
        /// Requests a second
        #[arg(long)]
        rate: f64,
        #[command(flatten)]
        load: Load,
    },
    /// One write and one fdatasync at a time into a file of zeros, as the log does
    Probe {
        /// Where the file is made, and removed again
        #[arg(long)]
        dir: PathBuf,
        /// Bytes of a write
        #[arg(long, default_value_t = 4096)]
        bytes: usize,
        /// How many
        #[arg(long, default_value_t = 1000)]
        count: usize,
    },
}

#[derive(Debug, Args)]
struct Load {
    /// Where the server is: http:// and an address with a port
    #[arg(long, value_parser = address)]
    url: SocketAddr,
    /// What is asked
    #[arg(long)]
    op: Op,
    /// Connections, which are kept
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Ends after so many seconds, unless --requests is given
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Ends after so many requests
    #[arg(long)]
    requests: Option<u64>,
    /// Keys are `key:` and a number below this, in 12 digits
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    keys: u64,
    /// How the numbers follow each other
    #[arg(long, default_value = "random")]
    order: Order,
    /// Bytes of a value, a JSON string, its quotes included
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    value_bytes: u32,
    /// Keys of a batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// The bearer token that goes with each request
    #[arg(long, default_value = "")]
    token: String,
    /// Repeats what was drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn address(url: &str) -> Result<SocketAddr, String> {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let address = address.trim_end_matches('/');
    address.parse().map_err(|_| {
        format!("{url}: this is for an address and a port, such as http://127.0.0.1:8080")
    })
}

fn main() -> io::Result<()> {
    let line = match Arguments::parse().task {
        Task::Closed(load) => {
            let pace = match load.requests {
                Some(requests) => Pace::requests(requests),
                None => Pace::closed(nanoseconds(), load.seconds),
            };
            drive(&load, pace)?
        }
        Task::Open { rate, load } => {
            if !(rate > 0.0 && rate <= 1e9) {
                return Err(io::Error::other(
                    "--rate must be above 0 and at most a thousand million",
                ));
            }
            let count = load.requests.unwrap_or((rate * load.seconds) as u64);
            drive(&load, Pace::open(nanoseconds(), rate, count))?
        }
        Task::Probe { dir, bytes, count } => probe::run(&dir, bytes, count)?,
    };
    println!("{line}");
    Ok(())
}

fn drive(load: &Load, pace: Pace) -> io::Result<serde_json::Value> {
    let host = load.url.to_string();
    let requests = Requests::new(
        load.op,
        &host,
        &load.token,
        load.value_bytes as usize,
        load.batch as usize,
    );
    let keys = Keys::new(load.order, load.keys, load.seed);
    let plan = Plan {
        address: load.url,
        connections: load.connections as usize,
    };
    let measured = drive::run(&plan, requests, keys, pace)?;
    let seconds = measured.elapsed_ns as f64 / 1e9;
    let rate = measured.answers as f64 / seconds;
    let us = |ns: u64| ns as f64 / 1e3;
    let at = |share| us(measured.latency.percentile(share));
    Ok(serde_json::json!({
        "op": load.op.name(),
        "connections": load.connections,
        "requests": measured.answers,
        "seconds": seconds,
        "requests_per_second": rate,
        "keys_per_second": rate * load.op.keys_per_request(load.batch),
        "mean_us": us(measured.latency.mean()),
        "p50_us": at(0.5),
        "p90_us": at(0.9),
        "p99_us": at(0.99),
        "p999_us": at(0.999),
        "max_us": us(measured.latency.max()),
        "errors": measured.errors,
        "cpu_seconds": cpu_ns() as f64 / 1e9,
    }))
}

/// Now, by the clock that also wakes the open loop.
fn nanoseconds() -> u64 {
    ns_of(ClockId::Monotonic)
}

/// User and system time of this process so far.
fn cpu_ns() -> u64 {
    ns_of(ClockId::ProcessCPUTime)
}

fn ns_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
