//! Labels that others read: containerd's garbage collector, and snapshotters.

use containerd::Labels;
use registry::Descriptor;
use serde_json::Value;

const PREFETCH_SIZE: u64 = 10 << 20;
/// Name and value of a label together may have so many bytes.
const LABEL_MAX: usize = 4096;
const STARGZ: &str = "containerd.io/snapshot/remote/stargz.";
const URLS: &str = "containerd.io/snapshot/remote/urls";
const CRI: &str = "containerd.io/snapshot/cri.";
/// Annotations of layers that snapshots get as labels.
const INHERITED: &str = "containerd.io/snapshot/";
/// What a layer is to become.
pub const TARGET: &str = "containerd.io/snapshot.ref";

/// What a document needs, so that the garbage collector keeps that as well.
pub fn of_children(media_type: &str, document: &[u8]) -> Labels {
    const PREFIX: &str = "containerd.io/gc.ref.content.";
    let mut labels = Labels::new();
    let kind = media_type.contains("manifest") || media_type.contains("index");
    let Some(document) = kind.then(|| serde_json::from_slice::<Value>(document).ok()).flatten() else {
        return labels;
    };
    let mut add = |name: String, descriptor: &Value| {
        if let Some(digest) = descriptor["digest"].as_str() {
            labels.insert(PREFIX.to_owned() + &name, digest.to_owned());
        }
    };
    add("config".to_owned(), &document["config"]);
    for (list, letter) in [("layers", "l"), ("manifests", "m")] {
        for (number, descriptor) in document[list].as_array().into_iter().flatten().enumerate() {
            add(format!("{letter}.{number}"), descriptor);
        }
    }
    labels
}

/// By what a snapshotter learns where a layer is.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// Of the image.
    pub reference: &'a str,
    /// Digest of the image's manifest.
    pub manifest: &'a str,
    /// The image's layers, the lowest first.
    pub layers: &'a [Descriptor],
    /// containerd's names instead of stargz-snapshotter's.
    pub containerd_names: bool,
    /// Layers need no digest of their TOC.
    pub skip_verify: bool,
}

impl Remote<'_> {
    /// The labels of a layer by its number.
    pub fn of(&self, number: usize) -> Labels {
        let layer = &self.layers[number];
        let mut labels = Labels::new();
        let inherited = layer.annotations.iter().filter(|(name, _)| name.starts_with(INHERITED));
        labels.extend(inherited.map(|(name, value)| (name.clone(), value.clone())));
        let names = if self.containerd_names {
            labels.insert(format!("{CRI}manifest-digest"), self.manifest.to_owned());
            [format!("{CRI}image-ref"), format!("{CRI}layer-digest"), format!("{CRI}image-layers")]
        } else {
            ["reference", "digest", "layers"].map(|name| STARGZ.to_owned() + name)
        };
        let [reference, digest, layers] = names;
        let following = self.layers[number..].iter().map(|layer| layer.digest.to_string());
        labels.insert(layers.clone(), joined(&layers, following));
        labels.insert(reference, self.reference.to_owned());
        labels.insert(digest, layer.digest.to_string());
        labels.insert(format!("{STARGZ}prefetch"), PREFETCH_SIZE.to_string());
        if self.skip_verify {
            labels.insert(format!("{STARGZ}skipverify"), "true".to_owned());
        }
        for (position, layer) in self.layers[number..].iter().enumerate() {
            if position == 0 && !layer.urls.is_empty() {
                labels.insert(URLS.to_owned(), joined(URLS, layer.urls.iter().cloned()));
            }
            if !layer.urls.is_empty() {
                let name = format!("{URLS}.{position}");
                labels.insert(name.clone(), joined(&name, layer.urls.iter().cloned()));
            }
        }
        labels
    }
}

/// As many as have room in the label.
fn joined(name: &str, values: impl Iterator<Item = String>) -> String {
    let mut all = String::new();
    for value in values {
        if name.len() + all.len() + 1 + value.len() > LABEL_MAX {
            break;
        }
        if !all.is_empty() {
            all.push(',');
        }
        all += &value;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_what_they_name() {
        let manifest = br#"{"config":{"digest":"c"},"layers":[{"digest":"a"},{"digest":"b"}]}"#;
        let labels = of_children("application/vnd.oci.image.manifest.v1+json", manifest);
        let expected = [("config", "c"), ("l.0", "a"), ("l.1", "b")];
        let expected = expected
            .map(|(name, digest)| (format!("containerd.io/gc.ref.content.{name}"), digest.to_owned()));
        assert_eq!(labels, expected.into());
        assert!(
            of_children("application/vnd.oci.image.config.v1+json", b"{\"config\":{\"digest\":\"x\"}}")
                .is_empty()
        );
    }

    #[test]
    fn a_layer_names_those_above_it_as_far_as_there_is_room() {
        let digest = |number: usize| format::Digest::of(number.to_string().as_bytes());
        let layer = |number| serde_json::json!({ "digest": digest(number), "size": 1 });
        let layers: Vec<Descriptor> =
            (0..120).map(|number| serde_json::from_value(layer(number)).unwrap()).collect();
        let remote = Remote {
            reference: "r.test/a:1",
            manifest: "sha256:m",
            layers: &layers,
            containerd_names: false,
            skip_verify: true,
        };
        let labels = remote.of(2);
        let list = &labels["containerd.io/snapshot/remote/stargz.layers"];
        assert!(list.starts_with(&format!("{},{},", digest(2), digest(3))));
        assert_eq!(list.split(',').count(), 56);
        assert_eq!(labels["containerd.io/snapshot/remote/stargz.prefetch"], "10485760");
        assert_eq!(labels["containerd.io/snapshot/remote/stargz.skipverify"], "true");
        let labels = Remote { containerd_names: true, ..remote }.of(119);
        assert_eq!(labels["containerd.io/snapshot/cri.image-layers"], digest(119).to_string());
        assert_eq!(labels["containerd.io/snapshot/cri.image-ref"], "r.test/a:1");
    }
}
