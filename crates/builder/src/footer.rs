//! The last bytes of a blob, by which readers find its TOC.

/// gzip: an empty member (RFC 1952) with an extra field and nothing else; operating system unknown.
const GZIP_HEADER: &[u8] = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff";
/// An empty stored block, the last one; then checksum and size, both 0.
const GZIP_EMPTY: &[u8] = b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";
/// A frame that zstd decompressors skip (RFC 8878, section 3.1.2).
const SKIPPABLE: &[u8] = b"\x50\x2a\x4d\x18";
/// The kind of table in a zstd:chunked blob: the one that there is.
const TOC_TYPE: u64 = 1;
/// As stargz-snapshotter writes it. containers/storage has an uppercase `N`, but goes by annotations.
const ZSTD_MAGIC: &[u8] = b"GnUlInUx";

/// eStargz, 51 bytes.
pub(crate) fn estargz(toc_offset: u64) -> Vec<u8> {
    gzip_extra(format!("{toc_offset:016x}STARGZ").as_bytes())
}

/// eStargz with an external TOC, 46 bytes.
pub(crate) fn external_toc() -> Vec<u8> {
    gzip_extra(b"STARGZEXTERNALTOC")
}

fn gzip_extra(field: &[u8]) -> Vec<u8> {
    let size = (field.len() as u16).to_le_bytes();
    let extra = (field.len() as u16 + 4).to_le_bytes();
    [GZIP_HEADER, &extra, b"SG", &size, field, GZIP_EMPTY].concat()
}

/// Where the TOC of a zstd:chunked blob is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZstdToc {
    pub offset: u64,
    pub compressed: u64,
    pub uncompressed: u64,
}

impl ZstdToc {
    /// The skippable frame with the footer, 48 bytes.
    pub fn footer(self) -> Vec<u8> {
        let numbers = [self.offset, self.compressed, self.uncompressed, TOC_TYPE].map(u64::to_le_bytes);
        skippable(&[numbers.as_flattened(), ZSTD_MAGIC].concat())
    }

    /// As annotations say it.
    pub fn position(self) -> String {
        format!("{}:{}:{}:{TOC_TYPE}", self.offset, self.compressed, self.uncompressed)
    }
}

/// Wraps data that decompressors are to skip. Larger data than 4 GiB has no frame.
pub(crate) fn skippable_header(size: usize) -> Option<Vec<u8>> {
    Some([SKIPPABLE, &u32::try_from(size).ok()?.to_le_bytes()].concat())
}

fn skippable(data: &[u8]) -> Vec<u8> {
    [SKIPPABLE, &(data.len() as u32).to_le_bytes(), data].concat()
}
