//! What tests of the HTTP interface share: a server in this process, a client that knows each byte
//! it sends, and tokens made apart from the code under test.

// Each test file uses its part.
#![allow(dead_code, unused_imports)]

pub(crate) mod client;
pub(crate) mod draw;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod token;
pub(crate) mod tool;

pub(crate) use client::{Client, Response};
pub(crate) use server::{ADMIN_KEY, START_MS, Server};
