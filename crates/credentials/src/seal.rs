//! A file that only this machine's root can read, whoever gets hold of a copy: encrypted and authenticated with a
//! key that lies in a file of its own.
//!
//! Format: 8 bytes that name it and its version, 12 bytes of nonce, then ChaCha20-Poly1305 (RFC 8439) of the
//! contents with the first 8 bytes as additional data, tag at the end. Each write takes a new random nonce; the
//! number of writes in the life of a key stays far below the 2^32 for which that is sound.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::Error;

/// Names the format and its version: another version is another name.
const MAGIC: [u8; 8] = *b"sgzcred1";
/// Length of a key, in bytes.
const KEY_LEN: usize = 32;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A sealed file.
pub(crate) struct Sealed {
    path: PathBuf,
    key: LessSafeKey,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Sealed {
    /// The file at `path`, sealed with the key in the file at `key`, which is made if there is none.
    ///
    /// # Errors
    /// If the key cannot be made or read, or if others than its owner, who must be us, can read it.
    pub fn open(path: &Path, key: &Path) -> Result<Sealed, Error> {
        let bytes = match read_key(key)? {
            Some(bytes) => bytes,
            None => make_key(key)?,
        };
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &*bytes);
        let unbound = unbound.map_err(|_| unusable(key, format!("is not a key of {KEY_LEN} bytes")))?;
        Ok(Sealed { path: path.to_owned(), key: LessSafeKey::new(unbound) })
    }

    /// The contents; None if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what was written with this key.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let file = match open_file(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&self.path, format!("cannot be opened: {error}"))),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let reading = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
        reading.map_err(|error| unusable(&self.path, format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(unusable(&self.path, format!("is larger than {MAX_FILE} bytes")));
        }
        self.unseal(bytes).map(Some).map_err(|problem| unusable(&self.path, problem.into()))
    }

    /// Replaces the contents, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, contents: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        let sealed = self.seal(contents).map_err(|problem| unusable(&self.path, problem.into()))?;
        replace(&self.path, &sealed)
            .map_err(|error| unusable(&self.path, format!("cannot be written: {error}")))
    }

    fn seal(&self, contents: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| "no random numbers from the system")?;
        let mut contents = contents;
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce_value, Aad::from(MAGIC), &mut contents);
        let tag = tag.map_err(|_| "cannot be encrypted")?;
        Ok([&MAGIC[..], &nonce, &contents, tag.as_ref()].concat())
    }

    fn unseal(&self, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let foreign = "is not a store of credentials of this version";
        let header = MAGIC.len() + NONCE_LEN;
        let (magic, nonce) = bytes.get(..header).ok_or(foreign)?.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(foreign);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| foreign)?;
        let opened = self.key.open_within(nonce, Aad::from(MAGIC), &mut bytes, header..);
        let length = opened.map_err(|_| "was not written with this key, or was changed since")?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// Opens for reading what is a file of its own, not a link to one.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; KEY_LEN]>>, Error> {
    let mut file = match open_file(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, format!("cannot be opened: {error}"))),
    };
    let found = file.metadata().map_err(|error| unusable(path, error.to_string()))?;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || !is_ours || found.mode() & 0o077 != 0 {
        return Err(unusable(
            path,
            format!(
                "must be a file of the user of this process that nobody else can read (owner {}, mode {:o}); \
                 remove it to have a new key made",
                found.uid(),
                found.mode() & 0o7777
            ),
        ));
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if found.len() != KEY_LEN as u64 || file.read_exact(&mut *key).is_err() {
        return Err(unusable(
            path,
            format!("is not a key of {KEY_LEN} bytes; remove it to have a new one made"),
        ));
    }
    Ok(Some(key))
}

fn make_key(path: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let random = SystemRandom::new().fill(&mut *key);
    random.map_err(|_| unusable(path, "no random numbers from the system".into()))?;
    replace(path, &*key).map_err(|error| unusable(path, format!("cannot be made: {error}")))?;
    Ok(key)
}

/// Writes a file that only its owner can read, so that after a crash it is the old or the new one.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Left behind by a crash.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    // The umask may have taken away what the owner needs.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn unusable(path: &Path, problem: String) -> Error {
    Error::Store { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests;
