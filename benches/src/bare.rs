//! The bare server: one constant warp route behind ekokv's accept loop, on a port of loopback. It
//! serves until it is killed.

mod keeper;

use std::future::ready;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Parser;
use ekokv::server::serve_bare;
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use keeper::{FILE_BYTES, Keeper};

/// As the program's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A server that answers everything with one value, for comparison
#[derive(Debug, Parser)]
struct Arguments {
    /// The port
    port: u16,
    /// Answer a POST once its body is written to a file and synced; the file is made here
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let Arguments { port, keep } = Arguments::parse();
    let keeper = keep
        .as_deref()
        .map(|path| Keeper::create(path, FILE_BYTES))
        .transpose()?;
    // As the program does.
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        match keeper {
            Some(keeper) => serve_bare(listener, move |body| keeper.keep(&body)).await,
            None => serve_bare(listener, |_| ready(())).await,
        }
        Ok(())
    })
}
