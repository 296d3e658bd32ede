//! What the daemon does for `stargz cache`.

use std::sync::Arc;

use async_trait::async_trait;
use format::Digest;
use layer::Layers;
use layer::cache::{Prune, Pruned};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{Answers, Refusal};

/// Gives layers up.
pub const PRUNE: &str = "cache.prune";
/// Looks at chunks that are said to be wrong, and forgets those that are.
pub const REPAIR: &str = "cache.repair";
/// Chunks in one request.
pub const CHUNKS_MAX: usize = 10_000;

/// Arguments of [`PRUNE`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneArguments {
    /// Stop when all layers together take no more than this, bytes.
    pub keep: u64,
    /// Give up contents of layers in use as well.
    pub contents: bool,
    /// Only say what would be given up.
    pub dry_run: bool,
}

/// What [`PRUNE`] did.
#[derive(Debug, Serialize, Deserialize)]
pub struct PruneAnswer {
    /// Layers that were removed.
    pub layers: u64,
    /// Bytes that became free.
    pub bytes: u64,
}

impl From<Pruned> for PruneAnswer {
    fn from(pruned: Pruned) -> PruneAnswer {
        PruneAnswer { layers: pruned.layers, bytes: pruned.bytes }
    }
}

/// Arguments of [`REPAIR`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RepairArguments {
    /// The layer.
    pub digest: Digest,
    /// Numbers of its chunks, at most [`CHUNKS_MAX`].
    pub chunks: Vec<usize>,
}

/// What [`REPAIR`] did.
#[derive(Debug, Serialize, Deserialize)]
pub struct RepairAnswer {
    /// Chunks that were wrong.
    pub chunks: u64,
}

/// Answers for the layers of the daemon.
#[derive(Debug)]
pub struct Commands(pub Arc<Layers>);

#[async_trait]
impl Answers for Commands {
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        let answer = match command {
            PRUNE => {
                let PruneArguments { keep, contents, dry_run } = read(arguments)?;
                let prune = Prune { keep, contents, dry_run, spare: Vec::new() };
                serde_json::to_value(PruneAnswer::from(self.0.prune(prune).await))
            }
            REPAIR => {
                let RepairArguments { digest, mut chunks } = read(arguments)?;
                chunks.truncate(CHUNKS_MAX);
                let repaired = self.0.repair(&digest, chunks).await.map_err(failed)?;
                serde_json::to_value(RepairAnswer { chunks: repaired as u64 })
            }
            _ => return Err(Refusal::Unknown),
        };
        answer.map_err(failed)
    }
}

fn read<T: serde::de::DeserializeOwned>(arguments: Value) -> Result<T, Refusal> {
    serde_json::from_value(arguments).map_err(|error| Refusal::Failed(format!("wrong arguments: {error}")))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}
