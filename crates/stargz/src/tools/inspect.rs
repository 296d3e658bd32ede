//! `stargz inspect`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use convert::examine::{Facts, facts_of_layer, views};
use convert::{BlobError, Descriptor, Source};
use format::Digest;
use serde_json::{Value, json};

use super::args::Inspect;
use super::place::Place;
use super::{Workshop, say, short, table};
use crate::cache_cli::human;

/// Tells what an image or a layer is made of.
///
/// # Errors
/// When it cannot be read.
pub fn run(flags: &Inspect) -> anyhow::Result<()> {
    let path = Path::new(&flags.image);
    if path.is_file() && convert::layout::Layout::open(path).is_err() {
        return one_file(path, flags.json);
    }
    let workshop = Workshop::open(&flags.registries)?;
    let opened = Place::parse(&flags.image)?.open(&workshop)?;
    let wanted = flags.platform.as_deref().map(str::parse).transpose()?;
    let mut images = Vec::new();
    for view in views(&opened.source, &opened.image, wanted.as_ref())? {
        let mut layers = Vec::new();
        for layer in &view.layers {
            let mut external =
                |digest: &Digest| opened.external_toc(digest).map_err(|error| format!("{error:#}"));
            layers.push((layer.clone(), facts_of_layer(&opened.source, layer, &mut external)?));
        }
        images.push((view, layers));
    }
    if images.is_empty() {
        anyhow::bail!("{} has no image for that platform", flags.image);
    }
    if flags.json {
        let images: Vec<Value> = images
            .iter()
            .map(|(view, layers)| {
                json!({
                    "platform": view.platform.as_ref().map(ToString::to_string),
                    "manifest": view.manifest.digest,
                    "layers": layers.iter().map(|(layer, facts)| as_json(layer, facts)).collect::<Vec<_>>(),
                })
            })
            .collect();
        let all = json!({ "image": opened.image.digest, "images": images });
        return say(&serde_json::to_string_pretty(&all)?);
    }
    for (view, layers) in &images {
        let platform = view.platform.as_ref().map_or_else(|| "any platform".to_owned(), ToString::to_string);
        say(&format!("{}  {platform}", view.manifest.digest))?;
        print_layers(layers)?;
    }
    Ok(())
}

/// A file as a blob.
struct OneFile<'a>(&'a Path);

impl Source for OneFile<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>, BlobError> {
        let file = File::open(self.0).map_err(|source| BlobError::Open {
            digest: Box::new(descriptor.digest),
            source: source.into(),
        })?;
        Ok(Box::new(file))
    }
}

fn one_file(path: &Path, json: bool) -> anyhow::Result<()> {
    let size = path.metadata().with_context(|| format!("cannot open {}", path.display()))?.len();
    // Its digest is not needed to find out what it is, and takes long.
    let layer = Descriptor::new("", Digest::of(b""), size);
    let mut facts = facts_of_layer(&OneFile(path), &layer, &mut |_| Ok(None))?;
    if facts.toc.is_some() {
        // There is no manifest that could give the digest.
        facts.not_lazy = None;
    }
    if json {
        let mut facts = as_json(&layer, &facts);
        facts["digest"] = Value::Null;
        return say(&serde_json::to_string_pretty(&facts)?);
    }
    print_layers(&[(layer, facts)])
}

fn print_layers(layers: &[(Descriptor, Facts)]) -> anyhow::Result<()> {
    let titles =
        ["LAYER", "SIZE", "FORMAT", "FILES", "CHUNKS", "CONTENT", "RATIO", "TOC", "PREFETCH", "LAZY"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for (layer, facts) in layers {
        let toc = facts.toc.as_ref();
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let bytes = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), human);
        let ratio = toc.filter(|_| layer.size > 0).map(|toc| toc.content as f64 / layer.size as f64);
        rows.push(vec![
            short(&layer.digest),
            human(layer.size),
            facts.format.to_owned(),
            number(toc.map(|toc| toc.files)),
            number(toc.map(|toc| toc.chunks)),
            bytes(toc.map(|toc| toc.content)),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            bytes(toc.and_then(|toc| toc.compressed)),
            bytes(toc.and_then(|toc| toc.prefetch)),
            facts.not_lazy.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        ]);
    }
    table(&rows).iter().try_for_each(|line| say(line))
}

fn as_json(layer: &Descriptor, facts: &Facts) -> Value {
    let toc = facts.toc.as_ref().map(|toc| {
        json!({
            "digest": toc.digest, "verified": toc.verified, "entries": toc.entries, "files": toc.files,
            "content": toc.content, "chunks": toc.chunks, "spans": toc.spans, "size": toc.compressed,
            "prefetch": toc.prefetch,
        })
    });
    json!({
        "digest": layer.digest, "size": layer.size, "mediaType": layer.media_type, "format": facts.format,
        "uncompressed": facts.uncompressed, "lazy": facts.not_lazy.is_none(), "notLazy": facts.not_lazy, "toc": toc,
    })
}
