//! What a manifest says of a zstd:chunked layer, in annotations of the layer's descriptor.

use crate::digest::Digest;
use crate::error::FormatError;
use crate::footer::ChunkedPosition;

/// In front of the names of all annotations: what Podman and Buildah write since the end of 2022, then what they wrote
/// before and stargz-snapshotter's converter still does.
const PREFIXES: [&str; 2] = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];
/// `<offset>:<size>:<size of the JSON>:<type>`, decimal.
const POSITION: &str = "manifest-position";
/// Digest of the compressed TOC.
const CHECKSUM: &str = "manifest-checksum";

/// What a manifest says of the TOC of a zstd:chunked layer.
///
/// If the manifest is the right one, so is the TOC that has this checksum. The position saves the request for the footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkedAnnotations {
    /// Where the TOC is.
    pub position: Option<ChunkedPosition>,
    /// Digest of the *compressed* TOC, for [`UnverifiedToc::verify_compressed`](crate::UnverifiedToc::verify_compressed).
    pub checksum: Option<Digest>,
}

impl ChunkedAnnotations {
    /// Reads the annotations, of which `value` gives the one with this name.
    ///
    /// Of two that say the same under an old and a new name, the new one counts. What a layer does not have is `None`:
    /// both for all layers that are not zstd:chunked.
    ///
    /// # Errors
    /// [`FormatError::Annotation`] for one that has not the right form.
    pub fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<ChunkedAnnotations, FormatError> {
        Ok(ChunkedAnnotations {
            position: read_one(&value, POSITION, "four decimal numbers", parse_position)?,
            checksum: read_one(&value, CHECKSUM, "a SHA-256 digest", |text| {
                text.parse().ok().filter(|digest: &Digest| digest.sha256().is_some())
            })?,
        })
    }
}

fn read_one<'a, T>(
    value: impl Fn(&str) -> Option<&'a str>,
    name: &str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, FormatError> {
    for prefix in PREFIXES {
        let key = format!("{prefix}{name}");
        if let Some(text) = value(&key) {
            return match parse(text) {
                Some(parsed) => Ok(Some(parsed)),
                None => {
                    let value = crate::error::excerpt(text.as_bytes());
                    Err(FormatError::Annotation { key, value, expected })
                }
            };
        }
    }
    Ok(None)
}

fn parse_position(text: &str) -> Option<ChunkedPosition> {
    // The number parser would take a sign, too.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let mut fields = text.split(':').map(number);
    let mut next = || fields.next()?;
    let position = ChunkedPosition { offset: next()?, size: next()?, json_size: next()?, toc_type: next()? };
    fields.next().is_none().then_some(position)
}

#[cfg(test)]
mod tests;
