//! `log_file_access`: which files are read for the first time, as far as reads reach this program.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use erofs::reader::{Image, Inode, ReadError};
use layer::Layer;

/// For as long as a layer lives.
const ALWAYS: Duration = Duration::from_secs(366 * 24 * 3600);
/// Longest metadata area that is read for names, bytes.
const METADATA_MAX: u64 = 512 << 20;

/// What was said until now. Layers that go are forgotten.
#[derive(Debug, Default)]
pub struct Files(HashMap<format::Digest, Seen>);

#[derive(Debug)]
struct Seen {
    /// By where their contents begin in the data area: end and path. What has several names is under one of them.
    names: BTreeMap<u64, (u64, String)>,
    reads: usize,
    said: std::collections::HashSet<u64>,
}

impl Files {
    /// Says what was read since the last call. Blocks on the disk.
    pub fn look(&mut self, layers: &[Arc<Layer>]) {
        self.0.retain(|digest, _| layers.iter().any(|layer| layer.digest() == *digest));
        for layer in layers {
            layer.record_for(ALWAYS);
            let seen = self.0.entry(layer.digest()).or_insert_with(|| {
                let names = names(layer).unwrap_or_else(|error| {
                    tracing::warn!(layer = %layer.digest(), %error, "names of files are not known");
                    BTreeMap::new()
                });
                Seen { names, reads: 0, said: Default::default() }
            });
            let reads = layer.first_reads();
            for data in reads.iter().skip(seen.reads) {
                let Some((start, (end, path))) = seen.names.range(..=data).next_back() else { continue };
                if data < end && seen.said.insert(*start) {
                    tracing::debug!(layer = %layer.digest(), path, size = end - start, "file accessed: {path}");
                }
            }
            seen.reads = reads.len();
        }
    }
}

fn names(layer: &Layer) -> anyhow::Result<BTreeMap<u64, (u64, String)>> {
    let file = File::open(layer.image_path())?;
    let metadata = file.metadata()?.len().saturating_sub(layer.data_len());
    anyhow::ensure!(metadata <= METADATA_MAX, "a metadata area of {metadata} bytes");
    let mut bytes = vec![0; metadata as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let image = Image::open(&bytes)?;
    let mut names = BTreeMap::new();
    let mut directories = vec![(image.root(), String::new())];
    // The image is our own, but a disk may lie.
    let mut left = image.inodes().saturating_mul(2);
    while let Some((nid, path)) = directories.pop() {
        let directory = image.inode(nid)?;
        for entry in image.read_dir(&directory, 0)? {
            let entry = entry?;
            if matches!(entry.name, b"." | b"..") {
                continue;
            }
            left = left.checked_sub(1).ok_or(ReadError::Damaged("more names than inodes"))?;
            let path = format!("{path}/{}", String::from_utf8_lossy(entry.name));
            match entry.file_type {
                2 => directories.push((entry.nid, path)),
                1 => {
                    let inode: Inode = image.inode(entry.nid)?;
                    let extent = image.extent(&inode)?;
                    if extent.len > 0 {
                        names.entry(extent.offset).or_insert((extent.offset + extent.len, path));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(names)
}
