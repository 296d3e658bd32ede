//! Writes an archive of an OCI image layout, in one pass; `docker load` reads it as well if it holds one image.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use builder::tar;
use format::Digest;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{ANNOTATION_NAME, INDEX_FILE, LayoutError, VERSION_FILE, docker};
use crate::descriptor::Descriptor;
use crate::media;
use crate::target::{NewBlob, Target, TargetError};

/// An archive that is being made. It gets its name when all is there ([`Packer::publish`]); dropped before, it is gone.
#[derive(Debug)]
pub struct Packer {
    path: PathBuf,
    directory: PathBuf,
    docker: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: NamedTempFile,
    members: HashSet<String>,
    manifests: Vec<(Digest, Value)>,
}

impl Packer {
    /// Begins an archive that will be at `path`; what is there now stays until then. With `docker`, it will also hold what
    /// `docker load` reads, for which it may have one image for one platform only.
    ///
    /// # Errors
    /// When no file can be made beside `path`.
    pub fn create(path: impl AsRef<Path>, docker: bool) -> Result<Packer, LayoutError> {
        let path = path.as_ref().to_owned();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let file = super::writer::temporary_in(&directory)?;
        let state = State { file, members: HashSet::new(), manifests: Vec::new() };
        let packer = Packer { path, directory, docker, state: Mutex::new(state) };
        packer.add(VERSION_FILE, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(packer)
    }

    /// Writes the index with the names of the images, and gives the archive its name.
    ///
    /// # Errors
    /// When it does not get to the disk; when it is for docker and an image is not for one platform.
    pub fn publish(self, images: &[(Option<&str>, &Descriptor)]) -> Result<(), LayoutError> {
        let mut manifests = Vec::new();
        for (name, descriptor) in images {
            let mut descriptor = (*descriptor).clone();
            descriptor.annotations.remove(ANNOTATION_NAME);
            if let Some(name) = name {
                descriptor.annotations.insert(ANNOTATION_NAME.to_owned(), (*name).to_owned());
            }
            manifests.push(descriptor);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests });
        self.add(INDEX_FILE, index.to_string().as_bytes())?;
        if self.docker {
            let list = self.docker_manifest(images)?;
            self.add(docker::MANIFEST_FILE, list.to_string().as_bytes())?;
        }
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let written = state.file.write_all(&[0; 1024]);
        written.map_err(LayoutError::io("writing", &self.path))?;
        super::writer::persist(state.file, &self.path)
    }

    /// What `docker save` would have written beside.
    fn docker_manifest(&self, images: &[(Option<&str>, &Descriptor)]) -> Result<Value, LayoutError> {
        let state = self.lock();
        let mut list = Vec::new();
        for (name, descriptor) in images {
            let manifest = state.manifests.iter().find(|(digest, _)| *digest == descriptor.digest);
            let manifest = manifest.map(|(_, manifest)| manifest).filter(|it| it["layers"].is_array());
            let manifest = manifest.ok_or_else(|| LayoutError::Document {
                path: self.path.clone(),
                document: docker::MANIFEST_FILE.to_owned(),
                problem: "an archive for docker holds an image for one platform; choose one with --platform"
                    .to_owned(),
            })?;
            let member = |blob: &Value| {
                let digest = blob["digest"].as_str().unwrap_or_default();
                format!("blobs/{}", digest.replacen(':', "/", 1))
            };
            let layers: Vec<String> =
                manifest["layers"].as_array().into_iter().flatten().map(member).collect();
            let names: Vec<&str> = name.iter().copied().collect();
            list.push(json!({ "Config": member(&manifest["config"]), "RepoTags": names, "Layers": layers }));
        }
        Ok(json!(list))
    }

    fn add(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        self.lock()
            .append(name, bytes.len() as u64, &mut &*bytes)
            .map_err(LayoutError::io("writing", &self.path))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing in the archive depends on when, where and by whom it is made.
    fn append(&mut self, name: &str, size: u64, content: &mut dyn io::Read) -> io::Result<()> {
        if !self.members.insert(name.to_owned()) {
            return Ok(());
        }
        let start = self.file.stream_position()?;
        let written = self.write(name, size, content);
        if written.is_err() {
            // The archive goes on where it was.
            self.members.remove(name);
            self.file.as_file().set_len(start)?;
            self.file.seek(SeekFrom::Start(start))?;
        }
        written
    }

    fn write(&mut self, name: &str, size: u64, content: &mut dyn io::Read) -> io::Result<()> {
        self.file.write_all(&tar::file_header(name, size))?;
        let copied = io::copy(content, &mut self.file)?;
        if copied != size {
            return Err(io::Error::other(format!("{copied} bytes came of {size}")));
        }
        self.file.write_all(&vec![0; tar::padding_after(size)])
    }
}

fn member_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl Target for Packer {
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError> {
        let file = tempfile::tempfile_in(&self.directory)
            .map_err(LayoutError::io("making a temporary file in", &self.directory))?;
        Ok(Box::new(Packed { packer: self, file }))
    }

    fn put(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError> {
        self.add(&member_of(digest), bytes)?;
        if self.docker && media::is_manifest(media_type) {
            // It was written by us.
            let manifest = serde_json::from_slice(bytes).unwrap_or_default();
            self.lock().manifests.push((*digest, manifest));
        }
        Ok(())
    }
}

/// A blob in a file without a name, until it can be appended.
struct Packed<'a> {
    packer: &'a Packer,
    file: File,
}

impl Write for Packed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewBlob for Packed<'_> {
    fn keep(mut self: Box<Self>, blob: &Descriptor, _: Option<&Digest>) -> Result<(), TargetError> {
        let failed = |source| LayoutError::io("writing", &self.packer.path)(source);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut state = self.packer.lock();
        state.append(&member_of(&blob.digest), blob.size, &mut self.file).map_err(failed)?;
        Ok(())
    }
}
