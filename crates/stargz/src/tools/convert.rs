//! `stargz convert`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use builder::{Gzip, Zstd};
use convert::image::{Converted, Converter, MediaTypes, Options, Platforms};
use convert::record::Wanted;
use serde::Serialize;
use serde_json::Value;

use super::args::{Convert, Format};
use super::place::{Destination, Place};
use super::progress::{Display, describe};
use super::{Workshop, say, short, table};
use crate::cache_cli::human;

/// Largest list, in bytes.
const LIST_MAX: u64 = 256 << 20;

/// Converts an image.
///
/// # Errors
/// Says what is wrong with which layer, file or registry. Then there is no image under the new name.
pub fn run(flags: &Convert) -> anyhow::Result<()> {
    let workshop = Workshop::open(&flags.registries)?;
    let (source, target) = (Place::parse(&flags.source)?, Place::parse(&flags.target)?);
    let options = options(flags)?;
    let opened = source.open(&workshop)?;
    let temporary = flags.temporary.clone().unwrap_or_else(std::env::temp_dir);
    let destination = Destination::open(&target, &source, &workshop, &temporary)?;
    let display = Arc::new(Display::new());
    let mut converter = Converter::new(options).cancel_by(Arc::clone(&workshop.cancel));
    if !flags.quiet {
        let display = Arc::clone(&display);
        converter = converter.on_progress(move |progress| display.note(&progress));
    }
    let converted = converter.convert(&opened.source, &opened.image, &destination);
    if !flags.quiet {
        display.finish();
    }
    let converted = converted?;
    destination.publish(&converted)?;
    for missing in &converted.missing {
        eprintln!("stargz: warning: {missing} is to be first, but is not in the image");
    }
    if converted.without_annotations {
        eprintln!(
            "stargz: warning: docker's media types leave no place for the digests of tables of contents; nodes will \
             pull this image lazily only if they do not verify"
        );
    }
    report(flags, &converted)
}

fn options(flags: &Convert) -> anyhow::Result<Options> {
    let gzip = || -> anyhow::Result<Gzip> {
        let level = flags.compression_level.unwrap_or(Gzip::default().level);
        if level > 9 {
            bail!("--compression-level {level} is not one of gzip's, which are 0 to 9");
        }
        Ok(Gzip { level, min_chunk_size: flags.min_chunk_size })
    };
    if flags.keep_diff_id && flags.format != Format::ExternalToc {
        bail!(
            "--keep-diff-id is possible with --format external-toc only: a table of contents inside changes the layer"
        );
    }
    let format = match flags.format {
        Format::Estargz => builder::Format::Estargz(gzip()?),
        Format::ExternalToc => builder::Format::ExternalToc { gzip: gzip()?, lossless: flags.keep_diff_id },
        Format::ZstdChunked => {
            let level = flags.compression_level.map_or(Zstd::default().level, i32::from);
            if !(1..=22).contains(&level) {
                bail!("--compression-level {level} is not one of zstd's, which are 1 to 22");
            }
            if flags.min_chunk_size > 0 {
                bail!("--min-chunk-size is for gzip");
            }
            builder::Format::ZstdChunked(Zstd { level, podman: true })
        }
    };
    let layer = builder::Options {
        chunk_size: flags.chunk_size,
        threads: flags.threads,
        temporary: flags.temporary.clone(),
        ..builder::Options::new(format)
    };
    let platforms: Result<Vec<_>, _> = flags.platform.iter().map(|text| text.parse()).collect();
    let platforms = platforms?;
    let mut wanted = Wanted::default();
    if let Some(file) = &flags.prefetch_list {
        let text = read(file)?;
        // An entry that cannot be a pattern is told with its line, before anything is read.
        convert::List::parse(&text).with_context(|| format!("cannot use the list {}", file.display()))?;
        wanted.prioritized = listed(&text);
    } else if let Some(file) = &flags.record_in {
        let record = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let entries = convert::record::read(BufReader::new(record))
            .with_context(|| format!("cannot use {}", file.display()))?;
        wanted = Wanted::of(&entries, None, flags.chunk_size);
    }
    Ok(Options {
        media_types: if flags.docker_media_types { MediaTypes::Keep } else { MediaTypes::Oci },
        platforms: if platforms.is_empty() { Platforms::All } else { Platforms::Only(platforms) },
        prioritized: wanted.prioritized,
        ranges: wanted.ranges,
        patterns: flags.prefetch_list.is_some(),
        allow_missing: !flags.strict,
        reuse: flags.reuse,
        parallel: flags.parallel.max(1),
        ..Options::new(layer)
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let read = file.take(LIST_MAX + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() as u64 > LIST_MAX {
        bail!("{} is larger than the {LIST_MAX} bytes that a list may have", path.display());
    }
    Ok(text)
}

/// The paths of a list: one a line, without blank lines and those that begin with `#`.
fn listed(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[derive(Serialize)]
struct Report {
    digest: String,
    media_type: String,
    size: u64,
    toc_image: Option<String>,
    layers: Vec<Layer>,
    missing: Vec<String>,
}

#[derive(Serialize)]
struct Layer {
    source: String,
    source_size: u64,
    target: String,
    target_size: u64,
    action: String,
}

fn report(flags: &Convert, converted: &Converted) -> anyhow::Result<()> {
    if flags.json {
        let layers = converted.layers.iter().map(|layer| Layer {
            source: layer.source.to_string(),
            source_size: layer.source_size,
            target: layer.target.to_string(),
            target_size: layer.target_size,
            action: describe(&layer.action),
        });
        let report = Report {
            digest: converted.image.digest.to_string(),
            media_type: converted.image.media_type.clone(),
            size: converted.image.size,
            toc_image: converted.toc_image.as_ref().map(|toc| toc.digest.to_string()),
            layers: layers.collect(),
            missing: converted.missing.clone(),
        };
        let report: Value = serde_json::to_value(report)?;
        return say(&serde_json::to_string_pretty(&report)?);
    }
    if !flags.quiet {
        let mut rows = vec![["LAYER", "SIZE", "NEW LAYER", "NEW SIZE", "WHAT"].map(str::to_owned).to_vec()];
        rows.extend(converted.layers.iter().map(|layer| {
            vec![
                short(&layer.source),
                human(layer.source_size),
                short(&layer.target),
                human(layer.target_size),
                describe(&layer.action),
            ]
        }));
        for line in table(&rows) {
            eprintln!("{line}");
        }
    }
    if let Some(toc) = &converted.toc_image {
        eprintln!("image of the tables of contents: {}", toc.digest);
    }
    say(&converted.image.digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_remarks() {
        assert_eq!(listed("# why\n\n /bin/sh \nusr/lib/**/*.so\n"), ["/bin/sh", "usr/lib/**/*.so"]);
    }
}
