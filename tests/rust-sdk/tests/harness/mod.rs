//! What the SDK tests share: the ekokv binary as a process of its own, SDK clients for it, and the
//! few bytes of HTTP that the SDK does not let a test see.

// Each test file uses its part.
#![allow(dead_code, unused_imports)]

mod data_dir;
mod process;
mod server;
mod token;

pub(crate) use server::Server;
pub(crate) use token::Token;
