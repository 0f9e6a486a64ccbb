//! Compaction on the simulated disk: what it must be able to do whatever the log looks like.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod sim;

use ekokv::store::{Command, Durability, Error, Reply, Store};
use ekokv_wal::SimDisk;
use sim::{open, runtime, set, stop, versions};

/// Sends a command again and again while there is no room in the log yet.
fn call(store: &Store, command: &Command) -> Result<Reply, Error> {
    let runtime = runtime();
    loop {
        match runtime.block_on(store.call(command.clone())) {
            Err(Error::Busy { .. }) => std::thread::yield_now(),
            other => return other,
        }
    }
}

#[test]
fn a_segment_can_be_ended_however_full_it_is() {
    // Sixteen blocks: a header, the first changes, and one for each of these.
    for sets in 1..=15 {
        let disk = SimDisk::new();
        let opened = open(&disk, Durability::Os);
        for number in 0..sets {
            call(&opened.store, &set(&format!("k{number:02}"), 100)).unwrap();
        }
        let compacted = runtime().block_on(opened.store.compact());
        assert_eq!(compacted, Ok(2 + sets), "{sets} sets");
        assert_eq!(versions(&opened.store).len() as u64, sets);
        stop(opened);
    }
}
