//! Writes an OCI image layout: blobs under a temporary name until they are whole, the index last.

use std::collections::HashSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use format::Digest;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{ANNOTATION_NAME, INDEX_FILE, LayoutError, VERSION_FILE, blob_path, images_of, parse};
use crate::descriptor::Descriptor;
use crate::media;
use crate::target::{NewBlob, Target, TargetError};

/// How the names of files begin that are being written.
const PARTIAL: &str = ".partial-";

/// A folder that is being made, or extended. What was written goes away again unless [`Writer::publish`] was called.
///
/// One at a time has the folder; the lock goes with the process.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
    index: Value,
    made: Mutex<Made>,
}

/// What there was not before.
#[derive(Debug, Default)]
struct Made {
    blobs: HashSet<Digest>,
    /// Outermost first.
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Writer {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    /// [`LayoutError::Busy`]; [`LayoutError::NotImages`] for a folder of other things; when a file cannot be written.
    pub fn open(path: impl AsRef<Path>) -> Result<Writer, LayoutError> {
        let path = path.as_ref();
        let mut made = Made::default();
        make_folders(path, &mut made)?;
        let lock = File::open(path).map_err(LayoutError::io("opening", path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LayoutError::Busy(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                return Err(LayoutError::Io { action: "locking", path: path.to_owned(), source });
            }
        }
        let mut writer = Writer {
            path: path.to_owned(),
            _lock: lock,
            index: json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [] }),
            made: Mutex::new(made),
        };
        writer.take_over()?;
        Ok(writer)
    }

    /// Takes over what is there, or begins.
    fn take_over(&mut self) -> Result<(), LayoutError> {
        let path = &self.path;
        if let Some(index) = read_if_there(&path.join(INDEX_FILE))? {
            let version = read_if_there(&path.join(VERSION_FILE))?.unwrap_or_default();
            images_of(path, &version, &index)?;
            self.index = parse(path, INDEX_FILE, &index)?;
        } else if !path.join(VERSION_FILE).exists() {
            let ours = |name: &str| name == "blobs" || name.starts_with(PARTIAL);
            if names_in(path)?.iter().any(|name| !ours(name)) {
                let found = "a folder of other things, to which no images are added".to_owned();
                return Err(LayoutError::NotImages { path: path.clone(), found });
            }
        }
        // What a process left that was killed; whoever has the lock is alone.
        for name in names_in(path)?.iter().filter(|name| name.starts_with(PARTIAL)) {
            let file = path.join(name);
            fs::remove_file(&file).map_err(LayoutError::io("removing", &file))?;
        }
        let mut made = lock(&self.made);
        for algorithm in ["sha256", "sha512"] {
            make_folders(&path.join("blobs").join(algorithm), &mut made)?;
        }
        let version = path.join(VERSION_FILE);
        if !version.exists() {
            made.files.push(version.clone());
            drop(made);
            self.replace(VERSION_FILE, &json!({ "imageLayoutVersion": "1.0.0" }))?;
        }
        Ok(())
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn blob(&self) -> Result<Pending<'_>, LayoutError> {
        let file = self.temporary()?;
        Ok(Pending { writer: self, file })
    }

    /// Writes a blob that is in memory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, LayoutError> {
        let digest = Digest::of(bytes);
        self.put_as(&digest, bytes)?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Writes a blob that was found to have this digest.
    pub(crate) fn put_as(&self, digest: &Digest, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut blob = self.blob()?;
        blob.write_all(bytes).map_err(LayoutError::io("writing a blob in", &self.path))?;
        blob.keep(digest)
    }

    /// Adds images to the index under their names, all or none. Another image of the same name goes.
    ///
    /// # Errors
    /// When the index cannot be written. Then there is nothing new.
    pub fn publish(mut self, images: &[(Option<&str>, &Descriptor)]) -> Result<(), LayoutError> {
        let mut index = self.index.take();
        let document = || LayoutError::Document {
            path: self.path.clone(),
            document: INDEX_FILE.to_owned(),
            problem: "manifests is not a list".to_owned(),
        };
        let manifests = index["manifests"].as_array_mut().ok_or_else(document)?;
        for (name, descriptor) in images {
            let mut descriptor = (*descriptor).clone();
            descriptor.annotations.remove(ANNOTATION_NAME);
            if let Some(name) = name {
                descriptor.annotations.insert(ANNOTATION_NAME.to_owned(), (*name).to_owned());
            }
            let new = json!(descriptor);
            manifests.retain(|old| {
                let old_name = old["annotations"][ANNOTATION_NAME].as_str();
                old_name != *name || (name.is_none() && old["digest"] != new["digest"])
            });
            manifests.push(new);
        }
        self.replace(INDEX_FILE, &index)?;
        *lock(&self.made) = Made::default();
        Ok(())
    }

    fn temporary(&self) -> Result<NamedTempFile, LayoutError> {
        temporary_in(&self.path)
    }

    fn replace(&self, name: &str, document: &Value) -> Result<(), LayoutError> {
        let path = self.path.join(name);
        let mut file = self.temporary()?;
        file.write_all(document.to_string().as_bytes()).map_err(LayoutError::io("writing", &path))?;
        persist(file, &path)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let made = self.made.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // What cannot be removed stays: it is whole, and nothing names it.
        for digest in &made.blobs {
            let _ = fs::remove_file(blob_path(&self.path, digest));
        }
        for file in &made.files {
            let _ = fs::remove_file(file);
        }
        for folder in made.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A blob that is being written. Dropped, it is gone.
#[derive(Debug)]
pub struct Pending<'a> {
    writer: &'a Writer,
    file: NamedTempFile,
}

impl Pending<'_> {
    /// Gives the blob its name. Whoever calls this has found that it has this digest.
    ///
    /// # Errors
    /// When it does not get to the disk.
    pub fn keep(self, digest: &Digest) -> Result<(), LayoutError> {
        let path = blob_path(&self.writer.path, digest);
        if !path.exists() {
            lock(&self.writer.made).blobs.insert(*digest);
        }
        persist(self.file, &path)
    }
}

impl Target for Writer {
    fn begin(&self) -> Result<Box<dyn NewBlob + '_>, TargetError> {
        Ok(Box::new(self.blob()?))
    }

    fn put(&self, _: &str, digest: &Digest, bytes: &[u8]) -> Result<(), TargetError> {
        Ok(self.put_as(digest, bytes)?)
    }
}

impl NewBlob for Pending<'_> {
    fn keep(self: Box<Self>, blob: &Descriptor, _: Option<&Digest>) -> Result<(), TargetError> {
        Ok(Pending::keep(*self, &blob.digest)?)
    }
}

impl Write for Pending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is gone unless it is given a name.
pub(super) fn temporary_in(folder: &Path) -> Result<NamedTempFile, LayoutError> {
    tempfile::Builder::new()
        .prefix(PARTIAL)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(LayoutError::io("making a temporary file in", folder))
}

/// Everything is on the disk before the name is, so that a name never stands for less.
pub(super) fn persist(file: NamedTempFile, path: &Path) -> Result<(), LayoutError> {
    file.as_file().sync_data().map_err(LayoutError::io("writing", path))?;
    file.persist(path).map(drop).map_err(|error| LayoutError::io("writing", path)(error.error))
}

fn make_folders(path: &Path, made: &mut Made) -> Result<(), LayoutError> {
    let new: Vec<PathBuf> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_owned)
        .collect();
    fs::create_dir_all(path).map_err(LayoutError::io("making", path))?;
    made.folders.extend(new.into_iter().rev());
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<String>, LayoutError> {
    let names = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    names.map_err(LayoutError::io("reading", folder))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, LayoutError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            let file = File::open(path).map_err(LayoutError::io("opening", path))?;
            super::read_bounded(file).map(Some).map_err(LayoutError::io("reading", path))
        }
        Ok(_) => Err(LayoutError::io("reading", path)(io::Error::other("it is not a file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LayoutError::io("reading", path)(error)),
    }
}

/// A set is valid after every step of what is done to it.
fn lock(made: &Mutex<Made>) -> std::sync::MutexGuard<'_, Made> {
    made.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
