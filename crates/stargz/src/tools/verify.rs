//! `stargz verify`.

use std::collections::HashSet;

use convert::examine::{Checked, check_layer, views};
use format::Digest;
use serde_json::{Value, json};

use super::args::Verify;
use super::place::Place;
use super::{Workshop, say, short, table};
use crate::cache_cli::human;

/// Reads all of an image, and checks it.
///
/// # Errors
/// When something is wrong, or it cannot be read.
pub fn run(flags: &Verify) -> anyhow::Result<()> {
    let workshop = Workshop::open(&flags.registries)?;
    let opened = Place::parse(&flags.image)?.open(&workshop)?;
    let wanted = flags.platform.as_deref().map(str::parse).transpose()?;
    let (mut seen, mut results) = (HashSet::new(), Vec::new());
    for view in views(&opened.source, &opened.image, wanted.as_ref())? {
        for layer in view.layers {
            if !seen.insert(layer.digest) {
                continue;
            }
            let mut external =
                |digest: &Digest| opened.external_toc(digest).map_err(|error| format!("{error:#}"));
            let checked = check_layer(&opened.source, &layer, &mut external, &workshop.cancel)?;
            results.push((layer, checked));
        }
    }
    if results.is_empty() {
        anyhow::bail!("{} has no layers for that platform", flags.image);
    }
    let wrong = results.iter().filter(|(_, checked)| checked.wrong > 0).count();
    if flags.json {
        let layers: Vec<Value> = results
            .iter()
            .map(|(layer, checked)| {
                json!({
                    "digest": layer.digest, "chunks": checked.chunks, "bytes": checked.bytes,
                    "wrong": checked.wrong, "problems": checked.problems, "notLazy": checked.not_lazy,
                })
            })
            .collect();
        say(&serde_json::to_string_pretty(&json!({ "good": wrong == 0, "layers": layers }))?)?;
    } else {
        let mut rows = vec![["LAYER", "CHUNKS", "BYTES", "RESULT"].map(str::to_owned).to_vec()];
        rows.extend(results.iter().map(|(layer, checked)| {
            vec![short(&layer.digest), checked.chunks.to_string(), human(checked.bytes), verdict(checked)]
        }));
        table(&rows).iter().try_for_each(|line| say(line))?;
        for (layer, checked) in &results {
            checked
                .problems
                .iter()
                .try_for_each(|problem| say(&format!("{}: {problem}", short(&layer.digest))))?;
        }
    }
    match wrong {
        0 => Ok(()),
        wrong => anyhow::bail!("{wrong} of {} layers are damaged", results.len()),
    }
}

fn verdict(checked: &Checked) -> String {
    match (checked.wrong, &checked.not_lazy) {
        (0, None) => "good".to_owned(),
        (0, Some(why)) => format!("the digest is right; not lazily pullable: {why}"),
        (wrong, _) => format!("{wrong} problems"),
    }
}
