//! Layers of very many files and of very large ones. What exactly they cost is measured by `examples/scale.rs`; these
//! bounds are loose, for any machine and for code that is not optimized.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use layer::source::{BlobBody, BlobSource, Piece, Tail};
use layer::{Error, Layers, LayersOptions};
use testkit::content::Content;
use testkit::synthetic::{BigFile, ManyFiles, SyntheticLayer};

use crate::read_file;

/// A blob that is computed where it is read.
#[derive(Debug)]
struct Computed(Content);

#[async_trait]
impl BlobSource for Computed {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        let size = self.0.len();
        let start = size.saturating_sub(len);
        Ok(Tail { blob_size: size, bytes: self.0.read(start, (size - start) as usize) })
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        Ok(Box::new(ComputedBody(self.0.clone(), range)))
    }
}

#[derive(Debug)]
struct ComputedBody(Content, std::ops::Range<u64>);

#[async_trait]
impl BlobBody for ComputedBody {
    fn whole(&self) -> bool {
        false
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let offset = self.1.start;
        let len = (self.1.end - offset).min(1 << 20);
        if len == 0 {
            return Ok(None);
        }
        self.1.start += len;
        Ok(Some(Piece { offset, bytes: self.0.read(offset, len as usize) }))
    }
}

async fn resolve(layers: &Arc<Layers>, layer: &SyntheticLayer) -> Arc<layer::Layer> {
    let source = Arc::new(Computed(layer.content.clone()));
    let resolved = layers.resolve(layer.digest, Some(layer.toc_digest.into()), source).await.unwrap();
    resolved.verify(&layer.toc_digest.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_two_hundred_thousand_files_is_there_in_a_moment() {
    let files = ManyFiles::new(200_000, 100);
    let synthetic = files.layer();
    let root = tempfile::tempdir().unwrap();
    let layers = Layers::open(LayersOptions::new(root.path())).unwrap();
    let begun = Instant::now();
    let layer = resolve(&layers, &synthetic).await;
    let built = begun.elapsed();
    assert!(built < Duration::from_secs(60), "{built:?}");
    let usage = layer.usage().unwrap();
    assert!(usage.bytes < 96 << 20, "{} bytes on disk for nothing but metadata", usage.bytes);
    for number in [0, 123_456, 199_999] {
        let path = String::from_utf8(files.path(number).into()).unwrap();
        assert_eq!(read_file(&layer, &path).await.unwrap(), files.content(number));
    }
    layers.close().await;
    drop((layers, layer));
    let begun = Instant::now();
    let layers = Layers::open(LayersOptions::new(root.path())).unwrap();
    resolve(&layers, &synthetic).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_twenty_gigabytes_costs_what_is_read_of_it() {
    let big = BigFile::new(5000, 4 << 20);
    let synthetic = big.layer();
    let root = tempfile::tempdir().unwrap();
    let layers = Layers::open(LayersOptions::new(root.path())).unwrap();
    let layer = resolve(&layers, &synthetic).await;
    assert_eq!(layer.data_len(), big.size());
    let empty = layer.usage().unwrap().bytes;
    assert!(empty < 1 << 20, "{empty} bytes before anything is read");
    for offset in [0, 10_000_000_001, big.size() - 5000] {
        let mut bytes = vec![0; 5000];
        layer.fill(offset, bytes.len()).await.unwrap();
        assert!(layer.read_local(offset, &mut bytes).unwrap());
        assert_eq!(bytes, big.read(offset, bytes.len()));
    }
    layers.flush().await;
    let read = layer.usage().unwrap().bytes;
    assert!(read < 200 << 20, "{read} bytes for three places");
}
