//! Looking into a data dir that nobody serves: what is in it, whether a start would take it, and what of
//! it can be saved.
//!
//! What always holds:
//! - The data dir that is looked at is only read: nothing in it is made, changed, renamed or removed, the
//!   file `lock` included.
//! - Values are printed by `dump` alone; secrets and digests by nobody.
//! - What is called lost or damaged is called so by the code that a start runs, or by checksums.

mod check;
mod dump;
mod examine;
mod files;
mod holder;
mod log_text;
mod place;
mod salvage;
mod torn;

pub use check::check;
pub use dump::{Dumped, dump};
pub use examine::{Contents, examine};
pub use log_text::print;
pub use salvage::salvage;
