//! `stargz cache prune`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::args::Prune;
use super::commands::{PRUNE, PruneAnswer, PruneArguments};
use super::{as_owner, human, mounted, say};
use crate::control::Client;

/// Removing very many large files takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn run(root: &Path, flags: &Prune) -> anyhow::Result<()> {
    let keep = flags.keep.map_or(0, |size| size.0);
    let daemon = Client::connect(root).context("cannot ask the daemon")?;
    let pruned = match daemon {
        Some(mut daemon) => {
            let arguments = PruneArguments { keep, contents: flags.all, dry_run: flags.dry_run };
            daemon.ask(PRUNE, arguments, PATIENCE)?
        }
        None => {
            let spare = if flags.all { Vec::new() } else { mounted(root)? };
            let prune = layer::cache::Prune { keep, contents: false, spare, dry_run: flags.dry_run };
            let pruned = as_owner(root, async |layers| Ok(layers.prune(prune).await))?;
            PruneAnswer::from(pruned)
        }
    };
    let PruneAnswer { layers, bytes } = pruned;
    let noun = if layers == 1 { "layer" } else { "layers" };
    let done = if flags.dry_run { "would free" } else { "freed" };
    say(&format!("{done} {}, {layers} {noun} removed", human(bytes)))
}
