//! A layer from outside: blobs in, verified bytes out.

mod cache;
mod crash;
mod disk;
mod engine;
mod fetching;
mod formats;
mod hostile;
mod mounted;
mod scale;
mod sharing;
mod source;

use std::path::Path;
use std::sync::Arc;

use layer::{Layer, Layers, LayersOptions};
use source::MemorySource;
use testkit::estargz::Blob;

/// Layers below a directory, with short timeouts.
fn layers(root: &Path) -> Arc<Layers> {
    let mut options = LayersOptions::new(root);
    options.read_timeout = std::time::Duration::from_secs(5);
    Layers::open(options).unwrap()
}

/// The layer of an honest blob.
async fn resolve(
    layers: &Arc<Layers>,
    blob: &Blob,
    source: Arc<MemorySource>,
) -> Result<Arc<Layer>, layer::Error> {
    layers.resolve(blob.digest, Some(blob.toc_digest.into()), source).await?.verify(&blob.toc_digest.into())
}

/// The content of a file of the layer, read as the kernel would read it: the place from the image, the bytes through
/// the layer.
async fn read_file(layer: &Layer, path: &str) -> Result<Vec<u8>, layer::Error> {
    let image = std::fs::read(layer.image_path()).unwrap();
    let image = erofs::reader::Image::open(&image).unwrap();
    let mut node = image.inode(image.root()).unwrap();
    for name in path.split('/') {
        let nid = image.lookup(&node, name.as_bytes()).unwrap().expect(path);
        node = image.inode(nid).unwrap();
    }
    let erofs::Content::File { size, data_offset } = image.content(&node).unwrap() else {
        panic!("{path} is no file")
    };
    layer.fill(data_offset, size as usize).await?;
    let mut bytes = vec![0; size as usize];
    assert!(layer.read_local(data_offset, &mut bytes).unwrap(), "filled bytes are local");
    Ok(bytes)
}
