//! The profiles of one node: `<root>/profiles/`, one file for each image.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use format::Digest;

use super::{LayerProfile, Profile, VERSION};

/// Images that are remembered; the one that was written longest ago goes first.
const PROFILES_MAX: usize = 256;
/// Longest file, bytes.
pub const FILE_MAX: u64 = 16 << 20;

/// The profiles, in memory and on disk. The lock is short; files are written outside of it.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    profiles: Mutex<HashMap<String, Profile>>,
}

/// Where the profiles of a root are.
pub fn dir_of(root: &Path) -> PathBuf {
    root.join("profiles")
}

/// The name of an image's file: references have characters that file names cannot have.
pub fn file_of(dir: &Path, image: &str) -> PathBuf {
    let hex = Digest::of(image.as_bytes()).hex();
    dir.join(format!("{}.json", hex.get(..32).unwrap_or(&hex)))
}

/// Reads one file.
///
/// # Errors
/// It can't be read, or is no profile.
pub fn read(path: &Path) -> anyhow::Result<Profile> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(Profile::parse(&text)?)
}

/// Writes a profile to the file of its image: all or nothing.
///
/// # Errors
/// The disk fails or is full.
pub fn write(dir: &Path, profile: &Profile) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = file_of(dir, &profile.image);
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    let written = file.write_all(profile.text().as_bytes()).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // What is left of it would be in nobody's way but the disk's.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// All profiles of a directory, the one that was written last first, with their files. What is none is named in the log.
///
/// # Errors
/// The directory can't be read. None is one without profiles.
pub fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Profile)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let written = fs::metadata(&path).and_then(|facts| facts.modified()).unwrap_or(UNIX_EPOCH);
        match read(&path) {
            Ok(profile) => found.push((written, path, profile)),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %format!("{error:#}"), "not usable as a profile")
            }
        }
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.0));
    Ok(found.into_iter().map(|(_, path, profile)| (path, profile)).collect())
}

impl Store {
    /// Loads the profiles of a root. Those that are too many are removed. Blocks on the disk.
    pub fn open(root: &Path) -> Store {
        let store = Store { dir: dir_of(root), profiles: Mutex::default() };
        store.reload();
        store
    }

    fn profiles(&self) -> MutexGuard<'_, HashMap<String, Profile>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again, which others may have changed. Blocks on the disk. Returns how many there are.
    pub fn reload(&self) -> usize {
        let all = list(&self.dir).unwrap_or_else(|error| {
            tracing::warn!(dir = %self.dir.display(), %error, "profiles cannot be read");
            Vec::new()
        });
        let mut profiles = HashMap::new();
        for (number, (path, profile)) in all.into_iter().enumerate() {
            if number < PROFILES_MAX {
                profiles.insert(profile.image.clone(), profile);
            } else if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old profile stays");
            }
        }
        let count = profiles.len();
        *self.profiles() = profiles;
        count
    }

    /// What is known to be needed first of a layer: by this image, else by any that has the layer.
    pub fn places(&self, image: &str, layer: &Digest) -> Option<Vec<u64>> {
        let profiles = self.profiles();
        let of = |profile: &Profile| {
            let found = profile.layers.iter().find(|known| known.digest == *layer);
            found.map(|known| known.spans.clone())
        };
        match profiles.get(image) {
            // Nothing was read of a layer that it does not name.
            Some(own) if own.layers.iter().any(|known| known.digest == *layer) => of(own),
            _ => profiles
                .values()
                .filter(|other| of(other).is_some())
                .max_by_key(|other| other.recorded)
                .and_then(of),
        }
    }

    /// Takes in what a start has read, and writes it down. Blocks on the disk.
    ///
    /// # Errors
    /// The disk fails or is full; the profile is then in memory only.
    pub fn learn(&self, image: &str, layers: Vec<LayerProfile>, first_of_start: bool) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let profile = {
            let mut profiles = self.profiles();
            if !profiles.contains_key(image) && profiles.len() >= PROFILES_MAX {
                let oldest =
                    profiles.values().min_by_key(|profile| profile.recorded).map(|old| old.image.clone());
                if let Some(old) = oldest {
                    profiles.remove(&old);
                    // One that cannot be removed goes at the next start.
                    let _ = fs::remove_file(file_of(&self.dir, &old));
                }
            }
            let profile = profiles.entry(image.to_owned()).or_insert_with(|| Profile {
                version: VERSION,
                image: image.to_owned(),
                recorded: now,
                starts: 0,
                layers: Vec::new(),
            });
            profile.learn(layers);
            profile.recorded = now;
            profile.starts += u64::from(first_of_start);
            profile.clone()
        };
        write(&self.dir, &profile)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn profiles_are_kept_over_a_restart_and_bounded() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path());
        let layer = Digest::of(b"layer");
        let learn = |image: &str, spans: &[u64]| {
            store.learn(image, vec![LayerProfile { digest: layer, spans: spans.to_vec() }], true).unwrap();
        };
        learn("a", &[1, 2]);
        learn("a", &[3]);
        let again = Store::open(root.path());
        assert_eq!(again.places("a", &layer), Some(vec![3, 1, 2]));
        assert_eq!(again.places("another image with this layer", &layer), Some(vec![3, 1, 2]));
        assert_eq!(again.places("a", &Digest::of(b"another layer")), None);
        (0..PROFILES_MAX + 3).for_each(|number| learn(&number.to_string(), &[1]));
        assert_eq!(list(&dir_of(root.path())).unwrap().len(), PROFILES_MAX);
    }

    #[test]
    fn what_is_no_profile_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let dir = dir_of(root.path());
        write(&dir, &example("a", &[1])).unwrap();
        fs::write(dir.join("x.json"), "{").unwrap();
        fs::write(dir.join("y.new"), "{").unwrap();
        assert_eq!(Store::open(root.path()).reload(), 1);
    }
}
