//! A socket through which people's commands reach the daemon: `<root>/control.sock`.
//!
//! One request is one line of JSON, and so is its answer; a connection may carry several, one after the other.
//!
//! ```text
//! {"version":1,"command":"cache.prune","arguments":{"keep":0}}
//! {"version":1,"ok":{"layers":2,"bytes":123456}}
//! {"version":1,"error":"what went wrong"}
//! ```
//!
//! The socket is the owner's alone: its mode says so, and whoever connects is looked at again.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::{Client, ControlError};
pub use server::{Answers, Refusal, listen, serve};

/// Version of the protocol. A server answers others with an error.
pub const VERSION: u32 = 1;
/// Longest request, bytes.
const REQUEST_MAX: u64 = 1 << 20;
/// Longest answer, bytes.
const ANSWER_MAX: u64 = 16 << 20;

/// The socket of the daemon whose state is in `root`.
pub fn socket(root: &Path) -> PathBuf {
    root.join("control.sock")
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    command: String,
    #[serde(default)]
    arguments: Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    version: u32,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok(Value),
    Error(String),
}
