//! `stargz profile`.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::args::{Profile as Flags, Verb};
use super::{Profile, store};
use crate::control::Client;
use crate::watch::RELOAD_PROFILES;

/// How long to wait for the daemon.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does what was typed.
///
/// # Errors
/// Says which file or image is in the way.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let dir = store::dir_of(&flags.root);
    match &flags.verb {
        Verb::Ls(ls) => show(&dir, ls.json),
        Verb::Export(export) => {
            let profile = store::read(&store::file_of(&dir, &export.image))
                .with_context(|| format!("no profile of {} in {}", export.image, dir.display()))?;
            say(profile.text().trim_end())
        }
        Verb::Apply(apply) => {
            let mut text = Vec::new();
            let shown = apply.file.display();
            let input: Box<dyn std::io::Read> = match apply.file == Path::new("-") {
                true => Box::new(std::io::stdin()),
                false => Box::new(
                    std::fs::File::open(&apply.file).with_context(|| format!("cannot read {shown}"))?,
                ),
            };
            input
                .take(store::FILE_MAX)
                .read_to_end(&mut text)
                .with_context(|| format!("cannot read {shown}"))?;
            let mut profile = Profile::parse(&text).with_context(|| shown.to_string())?;
            if let Some(image) = &apply.image {
                profile.image.clone_from(image);
            }
            store::write(&dir, &profile).with_context(|| format!("cannot write into {}", dir.display()))?;
            tell_daemon(&flags.root)?;
            say(&format!("{}: {} spans of {} layers", profile.image, profile.spans(), profile.layers.len()))
        }
        Verb::Rm(rm) => {
            for image in &rm.images {
                let file = store::file_of(&dir, image);
                if !file.exists() {
                    bail!("no profile of {image} in {}", dir.display());
                }
                std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            }
            tell_daemon(&flags.root)
        }
    }
}

fn show(dir: &Path, json: bool) -> anyhow::Result<()> {
    let all = store::list(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if json {
        let rows: Vec<Value> = all
            .iter()
            .map(|(path, profile)| {
                serde_json::json!({
                    "image": profile.image, "layers": profile.layers.len(), "spans": profile.spans(),
                    "starts": profile.starts, "recorded": profile.recorded, "file": path.display().to_string(),
                })
            })
            .collect();
        return say(&serde_json::to_string_pretty(&rows)?);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for (_, profile) in all {
        let hours = now.saturating_sub(profile.recorded) / 3600;
        let (spans, layers, starts) = (profile.spans(), profile.layers.len(), profile.starts);
        say(&format!("{}\t{spans} spans of {layers} layers\t{starts} starts\t{hours} h ago", profile.image))?;
    }
    Ok(())
}

/// A daemon that runs has the profiles in memory.
fn tell_daemon(root: &Path) -> anyhow::Result<()> {
    let client =
        Client::connect(root).with_context(|| format!("cannot tell the daemon in {}", root.display()))?;
    if let Some(mut client) = client {
        client.ask::<Value>(RELOAD_PROFILES, Value::Null, PATIENCE)?;
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
