//! The bare server: one constant warp route behind ekokv's accept loop, on a port of loopback. It
//! serves until it is killed.

use std::io;
use std::net::Ipv4Addr;

use clap::Parser;
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// As the program's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A server that answers everything with one value, for comparison
#[derive(Debug, Parser)]
struct Arguments {
    /// The port
    port: u16,
}

fn main() -> io::Result<()> {
    let Arguments { port } = Arguments::parse();
    // As the program does.
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        ekokv::server::serve_bare(listener).await;
        Ok(())
    })
}
