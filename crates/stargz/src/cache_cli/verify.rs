//! `stargz cache verify`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use format::Digest;
use layer::cache::{OnDisk, Survey, Verified};
use layer::image::ImageFiles;

use super::args::Verify;
use super::commands::{CHUNKS_MAX, REPAIR, RepairAnswer, RepairArguments};
use super::{as_owner, human, layers_dir, say};
use crate::control::Client;

/// The daemon may fetch what was wrong again before it answers.
const PATIENCE: Duration = Duration::from_secs(600);
/// Numbers of bad chunks that are printed.
const NAMED: usize = 10;

pub fn run(root: &Path, flags: &Verify) -> anyhow::Result<()> {
    let Survey { layers, broken } = layer::cache::survey(&layers_dir(root))?;
    for (digest, error) in &broken {
        eprintln!("stargz: warning: {digest} is not usable and will be built again: {error}");
    }
    let missing = flags.digests.iter().find(|wanted| !layers.iter().any(|layer| layer.digest == **wanted));
    if let Some(digest) = missing {
        bail!("layer {digest} is not in {}", root.display());
    }
    let wanted = |layer: &&OnDisk| flags.digests.is_empty() || flags.digests.contains(&layer.digest);
    let mut bad = Vec::new();
    for layer in layers.iter().filter(wanted) {
        let verified = match ImageFiles::open_to_read(&layer.dir) {
            Ok(files) => layer::cache::verify(&files)?,
            // Removed meanwhile.
            Err(_) if !layer.dir.exists() => continue,
            Err(error) => return Err(error.into()),
        };
        say(&report(&layer.digest, &verified))?;
        if !verified.bad.is_empty() {
            bad.push((layer.digest, verified.bad));
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    if !flags.repair {
        bail!("some contents on disk are wrong; --repair makes them be fetched again");
    }
    let repaired = repair(root, bad).context("cannot repair what is wrong")?;
    let noun = if repaired == 1 { "chunk" } else { "chunks" };
    say(&format!("repaired: {repaired} {noun} will be, or were, fetched again"))
}

fn report(digest: &Digest, verified: &Verified) -> String {
    let Verified { chunks, bytes, bad } = verified;
    if bad.is_empty() {
        return format!("{digest}: {chunks} chunks, {}, right", human(*bytes));
    }
    let named: Vec<String> = bad.iter().take(NAMED).map(usize::to_string).collect();
    let more = if bad.len() > NAMED { ", …" } else { "" };
    format!("{digest}: {} of {chunks} chunks WRONG: {}{more}", bad.len(), named.join(", "))
}

/// Has what is wrong forgotten: by the daemon if there is one, whose books would be wrong otherwise.
fn repair(root: &Path, bad: Vec<(Digest, Vec<usize>)>) -> anyhow::Result<u64> {
    let mut repaired = 0;
    match Client::connect(root).context("cannot ask the daemon")? {
        Some(mut daemon) => {
            for (digest, chunks) in &bad {
                for chunks in chunks.chunks(CHUNKS_MAX) {
                    let arguments = RepairArguments { digest: *digest, chunks: chunks.to_vec() };
                    repaired += daemon.ask::<RepairAnswer>(REPAIR, arguments, PATIENCE)?.chunks;
                }
            }
        }
        None => {
            repaired = as_owner(root, async |layers| {
                let mut repaired = 0;
                for (digest, chunks) in bad {
                    repaired += layers.repair(&digest, chunks).await? as u64;
                }
                Ok(repaired)
            })?;
        }
    }
    Ok(repaired)
}
