//! HTTP: one warp filter that takes every request and never rejects. A handler authorises, decodes
//! to a command, asks the store and encodes the reply; it keeps nothing and decides nothing else.
//!
//! - Every answer is JSON; every refusal has a code, a sentence and a request id.
//! - No value, key material or token is logged, whatever fails.
//! - Memory for large bodies and answers comes out of one budget before it is taken.

mod admin;
mod answer;
mod app;
mod batch;
mod batch_body;
mod body;
mod budget;
mod caught;
mod condition;
mod find;
mod find_body;
mod found_text;
mod held;
mod key_value;
mod links;
mod object;
mod path;
mod refusal;
mod request;
mod routes;
mod session;
mod slices;
mod status;

#[doc(hidden)]
pub mod fuzzing;
pub mod json;

pub use app::App;
pub use body::Incoming;
pub use held::{Held, held};
pub use routes::service;
