//! `ctr-remote images convert`.

use std::fs::File;
use std::future::Future;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::convert::image::{Action, Converted, Converter, MediaTypes, Options, Platforms, TOC_NAME_SUFFIX};
use ::convert::{Descriptor, Platform, record};
use anyhow::{Context as _, bail};
use builder::{Format, Gzip, Zstd};
use containerd::{Client, Image, Labels};

use super::args::Convert;
use super::store::Store;
use super::{check_name, lease};

/// Converts an image until `ended` ends.
pub async fn run(
    client: &Client,
    flags: Convert,
    ended: impl Future<Output = anyhow::Error>,
) -> anyhow::Result<()> {
    let options = options(&flags)?;
    check_name(&flags.target)?;
    if !flags.oci {
        tell(
            "warning: without --oci, Docker's media types have no place for what verifies a layer that is pulled lazily",
        );
    }
    let (target, source) = (flags.target.clone(), find(client, &flags.source).await?);
    lease::under(client, |client| convert(client, options, source, target, ended)).await
}

/// What is called so.
pub async fn find(client: &Client, name: &str) -> anyhow::Result<Descriptor> {
    let image = client.images().get(name).await.map_err(|error| match error.is_not_found() {
        true => anyhow::anyhow!(
            "there is no image {name:?} in containerd's namespace {:?}; ctr-remote image pull gets it",
            client.namespace()
        ),
        false => error.into(),
    })?;
    descriptor(image.target)
}

/// Converts an image until `ended` ends, and gives the new one its name.
pub async fn convert(
    client: Client,
    options: Options,
    source: Descriptor,
    target: String,
    ended: impl Future<Output = anyhow::Error>,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let converter = Converter::new(options).cancel_by(Arc::clone(&stop));
    let store = Store::new(client.clone());
    let mut work = tokio::task::spawn_blocking(move || converter.convert(&store, &source, &store));
    let converted = tokio::select! {
        done = &mut work => done.context("the conversion died")??,
        reason = ended => {
            stop.store(true, Ordering::Relaxed);
            // It aborts what it writes.
            let _ = work.await;
            return Err(reason);
        }
    };
    tell_about(&converted);
    if let Some(toc_image) = &converted.toc_image {
        let name = format!("{target}{TOC_NAME_SUFFIX}");
        put(&client, &name, toc_image).await?;
        crate::print(&format!("extra image: {name}"));
    }
    put(&client, &target, &converted.image).await?;
    crate::print(&converted.image.digest.to_string());
    Ok(())
}

fn tell_about(converted: &Converted) {
    for layer in &converted.layers {
        if let Action::Kept(reason) = &layer.action {
            tell(&format!("warning: layer {} stays as it is: {reason}", layer.source));
        }
    }
    if !converted.missing.is_empty() {
        tracing::debug!(files = converted.missing.len(), "files of the record are not in the image");
    }
}

async fn put(client: &Client, name: &str, target: &Descriptor) -> anyhow::Result<()> {
    let target = containerd::Descriptor {
        media_type: target.media_type.clone(),
        digest: target.digest.to_string(),
        size: target.size.cast_signed(),
        annotations: target.annotations.clone().into_iter().collect(),
    };
    let image =
        Image { name: name.to_owned(), labels: Labels::new(), target: Some(target), ..Image::default() };
    client.images().put(image).await?;
    Ok(())
}

fn descriptor(target: Option<containerd::Descriptor>) -> anyhow::Result<Descriptor> {
    let target = target.context("containerd says nothing of what the image is")?;
    let digest = target.digest.parse().context("the digest of the image")?;
    let mut descriptor = Descriptor::new(target.media_type, digest, target.size.cast_unsigned());
    descriptor.annotations = target.annotations.into_iter().collect();
    Ok(descriptor)
}

/// What is to be made of an image.
pub fn options(flags: &Convert) -> anyhow::Result<Options> {
    let (format, chunk_size, record) = format(flags)?;
    let mut layer = builder::Options::new(format);
    if chunk_size > 0 {
        layer.chunk_size = chunk_size;
    }
    layer.threads = flags.estargz_parallelism;
    let chunk_size = layer.chunk_size;
    let mut options = Options::new(layer);
    options.media_types = if flags.oci { MediaTypes::Oci } else { MediaTypes::Keep };
    options.allow_missing = true;
    // As it always was: other flags may be wanted of them.
    options.reuse = false;
    if !flags.all_platforms {
        let own = || vec![own_platform()];
        options.platforms =
            Platforms::Only(if flags.platform.is_empty() { own() } else { flags.platform.clone() });
    }
    if let Some(path) = record {
        let file = File::open(&path).with_context(|| format!("cannot read the record {}", path.display()))?;
        let entries = record::read(BufReader::new(file))
            .with_context(|| format!("cannot use the record {}", path.display()))?;
        let wanted = record::Wanted::of(&entries, None, chunk_size);
        (options.prioritized, options.ranges) = (wanted.prioritized, wanted.ranges);
    }
    Ok(options)
}

/// The format, the chunk size, and the record.
fn format(flags: &Convert) -> anyhow::Result<(Format, u32, Option<PathBuf>)> {
    if flags.zstdchunked {
        let zstd = Zstd { level: flags.zstdchunked_compression_level, ..Zstd::default() };
        let record = flags.zstdchunked_record_in.clone();
        return Ok((Format::ZstdChunked(zstd), flags.zstdchunked_chunk_size, record));
    }
    if !flags.estargz {
        bail!("say what to convert to: --estargz, --zstdchunked or --uncompress");
    }
    let gzip = Gzip { level: flags.estargz_compression_level, min_chunk_size: flags.estargz_min_chunk_size };
    let format = match flags.estargz_external_toc {
        true => Format::ExternalToc { gzip, lossless: flags.estargz_keep_diff_id },
        false => Format::Estargz(gzip),
    };
    Ok((format, flags.estargz_chunk_size, flags.estargz_record_in.clone()))
}

/// Says something that is no result.
pub fn tell(text: &str) {
    eprintln!("ctr-remote: {text}");
}

/// Of what this program runs on; any variant of it.
pub fn own_platform() -> Platform {
    let registry::Platform { os, architecture, .. } = registry::Platform::host();
    Platform { os, architecture, variant: None, rest: serde_json::Map::new() }
}
