//! Much from little: 1 GiB of zeros from 1 MiB of gzip.

use std::io::Write as _;

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use format::Digest;
use serde_json::{Value, json};

use super::super::{Blob, Draft, Footer, TOC_NAME, footer, sha256};
use crate::tarball::{Member, Type, header_of_size};

/// What a bomb expands to, in bytes.
pub const SIZE: u64 = 1 << 30;
/// A claim for [`zero_bomb`]: a small file.
pub const CLAIMED_4_KIB: u64 = 4 << 10;
/// A claim for [`zero_bomb`]: the truth.
pub const CLAIMED_ALL: u64 = SIZE;

/// A blob with the file `bomb`: its gzip member of about 1 MiB expands to 1 GiB of zeros, of which the TOC claims `claimed`
/// bytes in one chunk. The chunk's digest is right for so many zeros; the diff ID is not that of the blob.
pub fn zero_bomb(claimed: u64) -> Blob {
    let mut payload = gzip_of(&header_of_size(&Member::new(Type::File, "bomb"), SIZE));
    let digest = digest_of_zeros(claimed).to_string();
    let entry = json!({
        "name": "bomb", "type": "reg", "size": claimed, "mode": 0o644, "offset": payload.len(),
        "digest": digest, "chunkSize": claimed, "chunkDigest": digest,
    });
    payload.extend(gzip_of_zeros(b""));
    draft(payload, json!({ "version": 1, "entries": [entry] })).seal()
}

/// A blob whose TOC member expands to 1 GiB of zeros, behind the tar header that promises a TOC of this size. The TOC
/// digest is right.
pub fn toc_bomb() -> Blob {
    let mut bytes = gzip_of_zeros(&header_of_size(&Member::new(Type::File, TOC_NAME), SIZE));
    bytes.extend(footer(Footer::Estargz, 0));
    let blob = draft(Vec::new(), Value::Null).seal();
    Blob { toc_digest: digest_of_zeros(SIZE), ..blob.with_bytes(bytes) }
}

/// A draft with the diff ID of an empty payload: hashing a gibibyte would make each test a second longer.
fn draft(payload: Vec<u8>, toc: Value) -> Draft {
    Draft { payload, toc, footer: Footer::Estargz, uncompressed: sha256(), uncompressed_size: 0 }
}

fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).expect("writing to a Vec cannot fail")
}

/// A gzip member of `head` and [`SIZE`] zeros. A full flush ends on a byte and forgets the window, so the compressed
/// form of one mebibyte is repeated instead of compressing each.
fn gzip_of_zeros(head: &[u8]) -> Vec<u8> {
    const PIECE: usize = 1 << 20;
    let zeros = vec![0; PIECE];
    let mut deflate = flate2::Compress::new(Compression::best(), false);
    let mut piece = Vec::with_capacity(1 << 16);
    let status = deflate.compress_vec(&zeros, &mut piece, flate2::FlushCompress::Full);
    assert!(
        status.is_ok() && deflate.total_in() == PIECE as u64,
        "a mebibyte of zeros compresses in one call"
    );

    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(head).and_then(|()| gzip.flush()).expect("writing to a Vec cannot fail");
    let mut out = gzip.get_ref().clone();
    let mut crc = Crc::new();
    crc.update(head);
    for _ in 0..SIZE / PIECE as u64 {
        out.extend_from_slice(&piece);
        crc.update(&zeros);
    }
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]); // an empty last stored block
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out
}

fn digest_of_zeros(mut len: u64) -> Digest {
    let zeros = vec![0; 1 << 16];
    let mut hasher = sha256();
    while len > 0 {
        let piece = len.min(zeros.len() as u64);
        hasher.update(&zeros[..piece as usize]);
        len -= piece;
    }
    hasher.finish()
}
