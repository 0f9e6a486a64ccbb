//! The store: a handle for handlers, and behind it the owner, the committer, the compactor and recovery.
//!
//! What always holds:
//! - The owner alone reads and changes the state: whichever thread has its seat. The committer's thread
//!   alone writes the log.
//! - A write is answered when its sequence is *released*: synced in `always`, written in the other
//!   modes. A read is answered when all that it shows, absences included, is released. So no answer
//!   shows what a crash could take back.
//! - After the first failed write or sync of the log no command is answered with success.
//! - If the owner, the committer, the compactor or the thread that makes spares panics, the process ends.

mod chore;
mod command;
mod committer;
mod compactor;
mod data_dir;
mod finding;
mod frame;
mod handle;
pub mod inspect;
mod logged;
mod mailbox;
mod open;
mod options;
mod owner;
mod plan;
#[doc(hidden)]
pub mod proving;
mod provisional;
mod recovery;
mod replay;
mod seat;
mod secrets;
mod shared;
mod snapshot;
mod space;
mod spares;
mod store_clock;
mod timekeeper;

#[doc(hidden)]
pub use snapshot::fuzzing;

pub use command::{Answer, Command, Condition, Error, Found, Put, Reply, Tags, Ttl};
pub use compactor::{Schedule, Scrub};
pub use finding::FindPace;
pub use handle::{Awaited, Started, Store, Threads};
pub use options::{Durability, Failure, Health, Opened, Options, fits_segment};
