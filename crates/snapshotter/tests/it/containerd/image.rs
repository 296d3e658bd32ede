//! Small images as OCI archives.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;
use sha2::{Digest, Sha256};

/// A layer: its files, in order.
pub struct Layer(Vec<(String, Entry)>);

enum Entry {
    File(u32, Vec<u8>),
    Link(String),
}

impl Layer {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.0.push((path.to_owned(), Entry::File(mode, content.to_vec())));
        self
    }

    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.0.push((path.to_owned(), Entry::Link(target.to_owned())));
        self
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            match entry {
                Entry::File(mode, content) => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice()).unwrap();
                }
                Entry::Link(target) => {
                    header.set_mode(0o777);
                    header.set_size(0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, target).unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    /// Writes the files below `dir`.
    pub fn unpack(&self, dir: &Path) {
        for (path, entry) in &self.0 {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match entry {
                Entry::File(mode, content) => {
                    fs::write(&path, content).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                Entry::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            }
        }
    }
}

/// An image for this machine.
pub struct Image {
    name: String,
    layers: Vec<Layer>,
}

impl Image {
    pub fn new(name: &str, layers: Vec<Layer>) -> Self {
        Self { name: name.to_owned(), layers }
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Names of the layers on those below them: the OCI image specification's chain ids.
    pub fn chain_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for layer in &self.layers {
            let diff = digest(&layer.tar());
            let id = ids.last().map_or(diff.clone(), |below| digest(format!("{below} {diff}").as_bytes()));
            ids.push(id);
        }
        ids
    }

    /// Writes the archive.
    pub fn write(&self, path: &Path) {
        let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
        let mut add = |path: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content).unwrap();
        };
        let mut blob = |kind: &str, content: &[u8]| {
            let digest = digest(content);
            add(&format!("blobs/{}", digest.replace(':', "/")), content);
            json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": content.len() })
        };
        let layers: Vec<_> = self.layers.iter().map(|layer| blob("layer.v1.tar", &layer.tar())).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer["digest"]).collect::<Vec<_>>() },
        });
        let config = blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
        manifest["annotations"] = json!({ "io.containerd.image.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        add("index.json", index.to_string().as_bytes());
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        archive.finish().unwrap();
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
