//! ekokv: a key-value server with the KV REST API of ekoDB.
//!
//! Reading order: `docs/architecture.md`.

pub mod auth;
pub mod clock;
pub mod config;
pub mod http;
pub mod logging;
pub mod server;
pub mod state;
pub mod store;
pub mod torture;

#[doc(hidden)]
pub use ekokv_wal::planted;
