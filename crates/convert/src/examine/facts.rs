//! What a layer is, without reading more of it than its end.

use format::{Digest, Footer, Landmark, NodeKind, Toc, TocKind, spans};

use super::{ExternalToc, toc_of, verified};
use crate::descriptor::Descriptor;
use crate::media;
use crate::source::{BlobError, Source, read_range};

/// What a layer is.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// In a word: `estargz`, `external-toc`, `zstd:chunked`, `stargz` (legacy), or how it is compressed.
    pub format: &'static str,
    /// Its TOC, if it has one that can be read.
    pub toc: Option<TocFacts>,
    /// Size of the uncompressed layer in bytes, if its manifest says it.
    pub uncompressed: Option<u64>,
    /// Why it is not pulled lazily.
    pub not_lazy: Option<String>,
}

/// What a TOC says.
#[derive(Clone, Debug, PartialEq)]
pub struct TocFacts {
    /// Digest of the JSON.
    pub digest: Digest,
    /// Whether it is the one that the manifest names.
    pub verified: bool,
    /// Files, directories and all others.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes in regular files.
    pub content: u64,
    /// Chunks of files.
    pub chunks: u64,
    /// Pieces of the blob that decompress on their own.
    pub spans: u64,
    /// Compressed size of the TOC in the blob, in bytes.
    pub compressed: Option<u64>,
    /// How many bytes from the start of the blob are fetched when it is mounted: as its author says it, if so.
    pub prefetch: Option<u64>,
}

/// Finds out what a layer is. Reads its last bytes and its TOC.
///
/// # Errors
/// When the blob cannot be read.
pub fn facts_of_layer(
    source: &dyn Source,
    layer: &Descriptor,
    external: &mut ExternalToc<'_>,
) -> Result<Facts, BlobError> {
    let uncompressed =
        layer.annotations.get(builder::ANNOTATION_UNCOMPRESSED_SIZE).and_then(|text| text.parse().ok());
    let mut facts = Facts { format: "other", toc: None, uncompressed, not_lazy: None };
    if !media::is_layer(&layer.media_type) && !layer.media_type.is_empty() {
        let foreign = media::is_foreign(&layer.media_type);
        let why = if foreign { "it is distributed from another place" } else { "it is not a layer of files" };
        facts.not_lazy = Some(format!("{why} ({})", layer.media_type));
        return Ok(facts);
    }
    match toc_of(source, layer, external)? {
        Ok((footer, toc)) => {
            facts.format = name(footer.kind);
            let (toc, problem) = verified(toc, layer);
            let is_verified = problem.is_none();
            facts.not_lazy = problem;
            facts.toc = toc.map(|toc| of_toc(&toc, &footer, is_verified));
        }
        Err(problem) => {
            let magic = read_range(source, layer, 0..4)?;
            facts.format = match magic.as_slice() {
                [0x1f, 0x8b, ..] => "gzip",
                [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
                [_, 0x2a, 0x4d, 0x18] => "zstd",
                _ => "tar",
            };
            facts.not_lazy = Some(problem);
        }
    }
    Ok(facts)
}

fn name(kind: TocKind) -> &'static str {
    match kind {
        TocKind::Estargz => "estargz",
        TocKind::LegacyStargz => "stargz",
        TocKind::ExternalToc => "external-toc",
        TocKind::ZstdChunked { .. } => "zstd:chunked",
        _ => "other",
    }
}

fn of_toc(toc: &Toc, footer: &Footer, verified: bool) -> TocFacts {
    let sizes = toc.nodes().iter().filter_map(|node| match node.kind {
        NodeKind::File { size, .. } => Some(size),
        _ => None,
    });
    let (files, content) =
        sizes.fold((0, 0_u64), |(files, content), size| (files + 1, content.saturating_add(size)));
    TocFacts {
        digest: toc.digest(),
        verified,
        entries: toc.nodes().len() as u64,
        files,
        content,
        chunks: toc.chunks().len() as u64,
        spans: spans(toc.chunks(), footer.payload_end).len() as u64,
        compressed: footer.toc.as_ref().map(|toc| toc.end - toc.start),
        prefetch: match toc.landmark() {
            Landmark::Prefetch { end } => Some(end),
            Landmark::NoPrefetch => Some(0),
            Landmark::None => None,
        },
    }
}
