//! Who may do what: tokens made from API keys, and what they grant. Pure checks; the time is an
//! argument, and what is not a valid token grants nothing.

mod hs256;
mod token;
mod verified;

pub use token::{Grant, Refusal, Tokens};
