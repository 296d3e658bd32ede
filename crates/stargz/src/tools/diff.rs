//! `stargz diff`.

use convert::Platform;
use convert::examine::{View, compare_layers, views};
use serde_json::{Value, json};

use super::args::Diff;
use super::place::{Opened, Place};
use super::{Workshop, say, short};

/// Compares what two images show, layer by layer.
///
/// # Errors
/// When they are different, or cannot be read.
pub fn run(flags: &Diff) -> anyhow::Result<()> {
    let workshop = Workshop::open(&flags.registries)?;
    let open = |text: &str| -> anyhow::Result<(Opened, View)> {
        let opened = Place::parse(text)?.open(&workshop)?;
        let view = choose(&opened, flags.platform.as_deref(), text)?;
        Ok((opened, view))
    };
    let (original, left) = open(&flags.original)?;
    let (converted, right) = open(&flags.converted)?;
    if left.layers.len() != right.layers.len() {
        anyhow::bail!(
            "{} layers and {}: these are not the same image",
            left.layers.len(),
            right.layers.len()
        );
    }
    let (mut layers, mut count): (Vec<Value>, usize) = (Vec::new(), 0);
    for (one, other) in left.layers.iter().zip(&right.layers) {
        let differences = compare_layers((&original.source, one), (&converted.source, other))?;
        count += differences.len();
        if !flags.json {
            let result = if differences.is_empty() {
                "equal".to_owned()
            } else {
                format!("{} differences", differences.len())
            };
            say(&format!("{}  {}  {result}", short(&one.digest), short(&other.digest)))?;
            differences.iter().try_for_each(|it| say(&format!("  {}: {}", it.path, it.what)))?;
        }
        layers.push(json!({
            "original": one.digest, "converted": other.digest,
            "differences": differences.iter().map(|it| json!({ "path": it.path, "what": it.what })).collect::<Vec<_>>(),
        }));
    }
    if flags.json {
        say(&serde_json::to_string_pretty(&json!({ "equal": count == 0, "layers": layers }))?)?;
    }
    match count {
        0 => Ok(()),
        count => anyhow::bail!("{count} differences"),
    }
}

/// The image for the platform; the only one if there is no other.
fn choose(opened: &Opened, platform: Option<&str>, name: &str) -> anyhow::Result<View> {
    let mut all = views(&opened.source, &opened.image, None)?;
    if all.len() == 1 && platform.is_none() {
        return Ok(all.remove(0));
    }
    let host = registry::Platform::host();
    let wanted: Platform = match platform {
        Some(text) => text.parse()?,
        None => format!("{}/{}", host.os, host.architecture).parse()?,
    };
    let is_it = |view: &View| view.platform.as_ref().is_some_and(|offer| wanted.accepts(offer));
    let found = all.into_iter().find(is_it);
    found.ok_or_else(|| anyhow::anyhow!("{name} has no image for {wanted}; --platform chooses another one"))
}
