//! What a container can see of how far its layers are fetched: `/.stargz-snapshotter/<digest>.json`, one file for each
//! layer, with the fields and the place that stargz-snapshotter gave them.
//!
//! The directory is found by its name and not listed, so that programs which walk the root do not stumble over it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use format::Digest;
use mount::{StateContent, StateDir, Tree};
use serde::Serialize;

use super::served::Served;
use super::trees::{STATE, Trees};

/// Name of the directory.
pub const DIRECTORY: &str = ".stargz-snapshotter";

/// Names of a root directory that are looked up ahead; no image has nearly as many.
const NAMES_MAX: usize = 256;

/// The directories there are, one for each combination of layers.
#[derive(Debug, Default)]
pub struct States(HashMap<Digest, State>);

#[derive(Debug)]
struct State {
    tree: u32,
    /// The topmost layers' paths; never empty.
    tops: HashSet<PathBuf>,
}

impl States {
    /// The directory for these layers, of which the topmost is shown at `top`.
    ///
    /// # Errors
    /// It cannot be served.
    pub fn of(
        &mut self,
        trees: &mut Trees,
        top: &Path,
        layers: &[Arc<Served>],
    ) -> Result<PathBuf, mount::Error> {
        let layers: BTreeMap<Digest, &Arc<Served>> =
            layers.iter().map(|served| (served.layer.digest(), served)).collect();
        let names: String = layers.keys().map(|digest| format!("{digest}\n")).collect();
        let key = Digest::of(names.as_bytes());
        if let Some((state, dir)) = self.0.get_mut(&key).and_then(|state| {
            let dir = trees.at(state.tree)?;
            Some((state, dir))
        }) {
            state.tops.insert(top.to_owned());
            return Ok(dir);
        }
        let files = layers.iter().map(|(digest, served)| (format!("{digest}.json"), content(served)));
        let tree = Tree::State(StateDir::new(DIRECTORY, files.collect())?);
        let (tree, dir) = trees.add(&format!("{STATE}{}", key.hex()), None, tree)?;
        self.0.insert(key, State { tree, tops: HashSet::from([top.to_owned()]) });
        Ok(dir)
    }

    /// The layer at `top` is shown no more.
    pub fn forget(&mut self, trees: &mut Trees, top: &Path) {
        self.0.retain(|_, state| {
            if state.tops.remove(top) && state.tops.is_empty() {
                trees.remove(state.tree);
                return false;
            }
            true
        });
    }
}

/// Has the kernel remember that the names in the roots of the layers are not in `dir`, the lowest directory of their
/// overlay. Then these names are found when nobody serves any more.
pub fn learn_names(dir: &Path, layers: &[PathBuf]) {
    let names = layers.iter().filter_map(|layer| layer.read_dir().ok()).flatten().flatten();
    for entry in names.take(NAMES_MAX) {
        // That it is not there is what is wanted.
        let _ = dir.join(entry.file_name()).symlink_metadata();
    }
    // And that nothing is listed.
    let _ = dir.read_dir().map(Iterator::count);
}

/// The content of one layer's file.
fn content(served: &Arc<Served>) -> StateContent {
    // Whoever removes the layer does not wait for containers that could look at this.
    let served: Weak<Served> = Arc::downgrade(served);
    Arc::new(move || {
        let served = served.upgrade().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let progress = served.layer.progress();
        let present = progress.chunks.saturating_sub(progress.missing);
        let file = File::new(
            served.layer.digest(),
            progress.blob_size,
            (present, progress.chunks),
            served.failure(),
        );
        let mut line = serde_json::to_vec(&file)?;
        line.push(b'\n');
        Ok(line)
    })
}

/// The fields of a file, in their order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    digest: String,
    /// Of the blob, bytes.
    size: u64,
    /// Of the blob, bytes.
    fetched_size: u64,
    fetched_percent: f64,
}

impl File {
    /// Told from how many of the chunks are there, as the bytes that came over the line are another number: it starts anew
    /// with each process, and contents that other layers had never come.
    fn new(digest: Digest, size: u64, (present, chunks): (u64, u64), error: Option<String>) -> File {
        let part = if present >= chunks { 1.0 } else { present as f64 / chunks as f64 };
        let fetched_size = (size as f64 * part) as u64;
        File { error, digest: digest.to_string(), size, fetched_size, fetched_percent: part * 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(size: u64, chunks: (u64, u64), error: Option<&str>) -> String {
        let digest = Digest::of(b"x");
        let file = File::new(digest, size, chunks, error.map(str::to_owned));
        serde_json::to_string(&file).unwrap().replace(&digest.to_string(), "D")
    }

    #[test]
    fn a_file_has_the_fields_that_tools_know() {
        assert_eq!(
            line(200, (1, 4), None),
            r#"{"digest":"D","size":200,"fetchedSize":50,"fetchedPercent":25.0}"#
        );
        assert_eq!(
            line(200, (4, 4), Some("gone")),
            r#"{"error":"gone","digest":"D","size":200,"fetchedSize":200,"fetchedPercent":100.0}"#
        );
        assert_eq!(
            line(0, (0, 0), None),
            r#"{"digest":"D","size":0,"fetchedSize":0,"fetchedPercent":100.0}"#
        );
    }
}
