//! `ctr-remote images get-toc-digest`.

use std::io::{Cursor, Read, Write as _};

use anyhow::{Context as _, bail};
use containerd::Client;
use format::{Compression, FOOTER_SIZE_MAX, Footer, Limits, StreamDecoder, TocKind, read_toc};

use super::args::GetTocDigest;

/// The longest compressed TOC that is taken, in bytes.
const TOC_MAX: u64 = 512 << 20;

/// Prints the digest of a layer's TOC, or the TOC.
pub async fn run(client: &Client, flags: &GetTocDigest) -> anyhow::Result<()> {
    let digest = flags.layer.to_string();
    let size = client.content().info(&digest).await?.size.cast_unsigned();
    let tail = range(client, &digest, size.saturating_sub(FOOTER_SIZE_MAX as u64), size).await?;
    let footer = Footer::find(&tail, size).with_context(|| format!("the layer {digest}"))?;
    let place = match (footer.kind, flags.zstdchunked) {
        (TocKind::Estargz | TocKind::LegacyStargz, false) | (TocKind::ZstdChunked { .. }, true) => {
            footer.toc.clone()
        }
        (TocKind::ExternalToc, _) => {
            bail!("the TOC of the layer {digest} is not in it, but in an image of its own")
        }
        (_, false) => bail!("the layer {digest} is zstd:chunked: say so by --zstdchunked"),
        (_, true) => bail!("the layer {digest} is eStargz: leave --zstdchunked out"),
    };
    let place = place.context("the layer has no TOC")?;
    if place.end - place.start > TOC_MAX {
        bail!("the TOC of the layer {digest} has more than the {TOC_MAX} bytes that are accepted");
    }
    let compressed = range(client, &digest, place.start, place.end).await?;
    if flags.dump_toc {
        let json =
            json(footer.kind, &compressed).with_context(|| format!("the TOC of the layer {digest}"))?;
        let toc: serde_json::Value =
            serde_json::from_slice(&json).with_context(|| format!("the TOC of the layer {digest}"))?;
        show(&serde_json::to_string_pretty(&toc)?)?;
    } else {
        let toc = read_toc(&footer, Cursor::new(compressed), &Limits::default())
            .with_context(|| format!("the TOC of the layer {digest}"))?;
        crate::print(&toc.digest().to_string());
    }
    Ok(())
}

/// Whoever reads it may have enough before its end.
fn show(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

async fn range(client: &Client, digest: &str, start: u64, end: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if start < end {
        let mut reading = client.content().read(digest, start, end - start).await?;
        while let Some(part) = reading.next().await? {
            bytes.extend_from_slice(&part);
        }
    }
    if bytes.len() as u64 != end - start {
        bail!("containerd gave {} of {} bytes of the layer {digest}", bytes.len(), end - start);
    }
    Ok(bytes)
}

fn json(kind: TocKind, compressed: &[u8]) -> anyhow::Result<Vec<u8>> {
    let limit = Limits::default().json_bytes;
    let mut json = Vec::new();
    if let TocKind::ZstdChunked { json_size } = kind {
        let decoder = StreamDecoder::new(Compression::Zstd, Cursor::new(compressed));
        decoder.take(json_size.min(limit)).read_to_end(&mut json)?;
        return Ok(json);
    }
    let mut archive = tar::Archive::new(StreamDecoder::new(Compression::Gzip, Cursor::new(compressed)));
    let entry = archive.entries()?.next().context("there is none")??;
    entry.take(limit).read_to_end(&mut json)?;
    Ok(json)
}
