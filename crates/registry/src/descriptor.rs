//! Descriptors and platforms of the OCI image specification.

use std::collections::BTreeMap;

use format::Digest;
use serde::{Deserialize, Serialize};

/// What an index or a manifest says about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the object.
    #[serde(default)]
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Free key-value pairs.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Other places to get it from.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// What it runs on; in an index only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// What is known of an object by itself.
    pub(crate) fn new(media_type: String, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
            platform: None,
        }
    }
}

/// Writers in Go give `null` for an empty list.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What an image runs on, in the words of Go: `linux`, `amd64`, `v8`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Processor architecture.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on the processor that this program is built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `offered` runs here: none if not at all, else more is better.
    ///
    /// A processor runs what is built for its own variant and, on 32-bit ARM and amd64, for lower ones.
    pub(crate) fn suits(&self, offered: &Platform) -> Option<u32> {
        let (here, there) = (normal(self), normal(offered));
        if here.0 != there.0 || here.1 != there.1 {
            return None;
        }
        match (here.2, there.2) {
            (here, there) if here == there => Some(u32::MAX),
            (Some(here), Some(there)) if there < here && self.architecture != "arm64" => Some(there),
            _ => None,
        }
    }
}

/// Operating system, architecture and number of the variant, with what the names imply filled in.
fn normal(platform: &Platform) -> (&str, &str, Option<u32>) {
    let number =
        platform.variant.as_deref().and_then(|variant| variant.trim_start_matches('v').parse::<u32>().ok());
    let (architecture, implied) = match platform.architecture.as_str() {
        "x86_64" | "x86-64" | "amd64" => ("amd64", Some(1)),
        "aarch64" | "arm64" => ("arm64", Some(8)),
        "armhf" | "arm" => ("arm", Some(7)),
        "armel" => ("arm", Some(6)),
        "i386" => ("386", None),
        other => (other, None),
    };
    (&platform.os, architecture, number.or(implied))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next();
        Platform { os: next().unwrap(), architecture: next().unwrap(), variant: next() }
    }

    #[test]
    fn variants_suit_downwards() {
        let rows = [
            ("linux/amd64", "linux/amd64", Some(u32::MAX)),
            ("linux/x86_64", "linux/amd64/v1", Some(u32::MAX)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(2)),
            ("linux/amd64/v3", "linux/amd64", Some(1)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/arm64", "linux/arm64/v8", Some(u32::MAX)),
            ("linux/arm64/v8", "linux/aarch64", Some(u32::MAX)),
            ("linux/arm", "linux/arm/v7", Some(u32::MAX)),
            ("linux/arm/v7", "linux/arm/v5", Some(5)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/s390x", "linux/s390x", Some(u32::MAX)),
            ("linux/amd64", "unknown/unknown", None),
        ];
        for (here, offered, expected) in rows {
            assert_eq!(platform(here).suits(&platform(offered)), expected, "{offered} on {here}");
        }
        assert_eq!(Platform::host().suits(&Platform::host()), Some(u32::MAX));
    }

    #[test]
    fn descriptors_survive_a_round_trip() {
        let digest = Digest::of(b"");
        let text = format!(
            r#"{{"mediaType":"m","digest":"{digest}","size":7,"annotations":{{"a":"b"}},"urls":["u"],"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&descriptor).unwrap(), text);
        let small = format!(r#"{{"digest":"{digest}","size":0,"annotations":null,"urls":null,"data":"x"}}"#);
        assert!(serde_json::from_str::<Descriptor>(&small).unwrap().annotations.is_empty());
        for wrong in [r#""size":-1"#, r#""size":1.5"#, r#""size":1e30"#] {
            let text = format!(r#"{{"digest":"{digest}",{wrong}}}"#);
            assert!(serde_json::from_str::<Descriptor>(&text).is_err(), "{text}");
        }
    }
}
