//! What containerd and its clients say of a layer in the labels of its snapshot.

use std::collections::HashMap;

use format::Digest;
use registry::Reference;

const CRI_REF: &str = "containerd.io/snapshot/cri.image-ref";
const CRI_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
const CRI_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
const CRI_MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const STARGZ_REF: &str = "containerd.io/snapshot/remote/stargz.reference";
const STARGZ_DIGEST: &str = "containerd.io/snapshot/remote/stargz.digest";
const STARGZ_LAYERS: &str = "containerd.io/snapshot/remote/stargz.layers";
const PREFETCH: &str = "containerd.io/snapshot/remote/stargz.prefetch";
const SKIP_VERIFY: &str = "containerd.io/snapshot/remote/stargz.skipverify";
const URLS: &str = "containerd.io/snapshot/remote/urls";
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// No image has more layers than this; a longer list is cut.
const NEIGHBOURS_MAX: usize = 512;

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSource {
    /// The image that the layer belongs to.
    pub reference: Reference,
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// Digest of the image's manifest, if containerd says.
    pub manifest: Option<Digest>,
    /// What the manifest says of the layer's TOC.
    pub toc_digest: Option<Digest>,
    /// What it says of the TOC's compressed bytes; containerd does not.
    pub compressed_toc_digest: Option<Digest>,
    /// The image's user asked for no verification. Any value counts.
    pub skip_verify: bool,
    /// Bytes to prefetch if the image has no landmark.
    pub prefetch_size: Option<u64>,
    /// Where the layer is in IPFS, if its manifest says.
    pub ipfs: Option<String>,
    /// The other layers of the image that are about to be prepared.
    pub neighbours: Vec<Neighbour>,
}

/// Another layer of the same image.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// Digest of the layer's blob.
    pub digest: Digest,
    /// Where it is in IPFS, if its manifest says.
    pub ipfs: Option<String>,
}

/// Why labels do not name a layer.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// Neither set of labels is complete.
    #[error(
        "the snapshot has no labels that name its image and layer ({CRI_REF} and {CRI_DIGEST}, or {STARGZ_REF} and \
         {STARGZ_DIGEST}); for pulls through CRI set disable_snapshot_annotations = false in containerd's configuration"
    )]
    Missing,
    /// A label's value is malformed.
    #[error("label {label}: {reason}")]
    Malformed {
        /// The label.
        label: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
}

/// Reads the labels: those of CRI and containerd first, then those of the stargz clients.
///
/// # Errors
/// They name no layer.
pub fn parse(labels: &HashMap<String, String>) -> Result<LayerSource, LabelError> {
    let pair = |reference: &'static str, digest: &'static str, layers: &'static str| {
        Some(((reference, labels.get(reference)?), (digest, labels.get(digest)?), layers))
    };
    let ((ref_label, reference), (digest_label, digest), layers) = pair(CRI_REF, CRI_DIGEST, CRI_LAYERS)
        .or_else(|| pair(STARGZ_REF, STARGZ_DIGEST, STARGZ_LAYERS))
        .ok_or(LabelError::Missing)?;
    let digest = parsed(digest_label, digest)?;
    let list = labels.get(layers).map_or("", String::as_str);
    // The list is cut at the size of a label, so its last item may be torn; what does not parse is nobody's layer.
    let neighbours = list.split(',').take(NEIGHBOURS_MAX).enumerate().filter_map(|(index, text)| {
        let ipfs = ipfs_url(labels, &format!("{URLS}.{index}"));
        Some(Neighbour { digest: text.parse().ok()?, ipfs })
    });
    Ok(LayerSource {
        reference: parsed(ref_label, reference)?,
        digest,
        manifest: labels.get(CRI_MANIFEST).map(|text| parsed(CRI_MANIFEST, text)).transpose()?,
        toc_digest: labels.get(TOC_DIGEST).map(|text| parsed(TOC_DIGEST, text)).transpose()?,
        compressed_toc_digest: None,
        skip_verify: labels.contains_key(SKIP_VERIFY),
        prefetch_size: labels.get(PREFETCH).map(|text| parsed(PREFETCH, text)).transpose()?,
        ipfs: ipfs_url(labels, URLS),
        neighbours: neighbours.filter(|neighbour| neighbour.digest != digest).collect(),
    })
}

/// The first URL of IPFS in a label that lists a layer's URLs.
fn ipfs_url(labels: &HashMap<String, String>, label: &str) -> Option<String> {
    labels.get(label)?.split(',').find(|url| url.starts_with("ipfs://")).map(str::to_owned)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    label: &'static str,
    text: &str,
) -> Result<T, LabelError> {
    text.parse().map_err(|error: T::Err| LabelError::Malformed { label, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> String {
        Digest::from_sha256([byte; 32]).to_string()
    }

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_of_cri_come_before_those_of_the_stargz_clients() {
        let (one, two) = (digest(1), digest(2));
        let both = [
            (CRI_REF, "docker.io/library/a:1"),
            (CRI_DIGEST, &one),
            (STARGZ_REF, "b:1"),
            (STARGZ_DIGEST, &two),
        ];
        assert_eq!(parse(&labels(&both)).unwrap().digest.to_string(), one);
        assert_eq!(parse(&labels(&both[2..])).unwrap().digest.to_string(), two);
        assert_eq!(parse(&labels(&both[1..])).unwrap().digest.to_string(), two);
        assert!(matches!(parse(&labels(&both[3..])), Err(LabelError::Missing)));
    }

    #[test]
    fn neighbours_are_the_other_layers_and_a_torn_last_one_is_dropped() {
        let (one, two) = (digest(1), digest(2));
        let list = format!("{one},{two},{}", &digest(3)[..40]);
        let source =
            parse(&labels(&[(STARGZ_REF, "a:1"), (STARGZ_DIGEST, &one), (STARGZ_LAYERS, &list)])).unwrap();
        assert_eq!(source.neighbours, [Neighbour { digest: two.parse().unwrap(), ipfs: None }]);
    }

    #[test]
    fn urls_of_ipfs_are_found_for_the_layer_and_its_neighbours() {
        let (one, two) = (digest(1), digest(2));
        let urls = [(URLS, "https://x.test/a,ipfs://bafyone"), (&format!("{URLS}.1"), "ipfs://bafytwo")];
        let list = format!("{one},{two}");
        let image = [(STARGZ_REF, "a:1"), (STARGZ_DIGEST, one.as_str()), (STARGZ_LAYERS, &list)];
        let source = parse(&labels(&[&urls[..], &image[..]].concat())).unwrap();
        assert_eq!(source.ipfs.as_deref(), Some("ipfs://bafyone"));
        assert_eq!(source.neighbours[0].ipfs.as_deref(), Some("ipfs://bafytwo"));
    }

    #[test]
    fn malformed_values_name_their_label() {
        let one = digest(1);
        for (label, value) in
            [(TOC_DIGEST, "sha256:xyz"), (PREFETCH, "-1"), (STARGZ_REF, "UPPER//"), (STARGZ_DIGEST, "x")]
        {
            let mut all = labels(&[(STARGZ_REF, "a:1"), (STARGZ_DIGEST, &one)]);
            all.insert(label.to_owned(), value.to_owned());
            let text = parse(&all).unwrap_err().to_string();
            assert!(text.contains(label), "{text}");
        }
    }

    #[test]
    fn only_the_presence_of_skipverify_counts() {
        let one = digest(1);
        let source =
            parse(&labels(&[(STARGZ_REF, "a:1"), (STARGZ_DIGEST, &one), (SKIP_VERIFY, "false")])).unwrap();
        assert!(source.skip_verify);
    }
}
