use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use layer::Error;
use layer::source::{BlobBody, FileSource, Tail};

use super::*;

/// A file that counts how often it is asked.
#[derive(Debug)]
struct Counted(FileSource, AtomicUsize);

#[async_trait]
impl BlobSource for Counted {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        self.0.tail(len).await
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(range).await
    }
}

fn blob(size: usize) -> (Vec<u8>, Arc<Counted>, BlobFile) {
    let bytes: Vec<u8> = (0..size).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let source = Arc::new(Counted(FileSource::new(file).unwrap(), AtomicUsize::new(0)));
    let digest = Digest::of(b"blob");
    let blob = BlobFile::new(source.clone(), digest, size as u64, Arc::new(Windows::new()));
    (bytes, source, blob)
}

/// Reads as the kernel asks.
async fn read_at(blob: &BlobFile, offset: usize, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    if blob.read_local(offset as u64, &mut buf).unwrap() {
        return buf;
    }
    match blob.fetch(offset as u64, len).await.unwrap() {
        Fetched::Unkept(bytes) => bytes.to_vec(),
        Fetched::Stored => panic!("nothing is stored"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_read_once_from_start_to_end() {
    let (bytes, source, blob) = blob(WINDOW as usize * 2 + 77);
    let mut seen = Vec::new();
    while seen.len() < bytes.len() {
        let len = (128 << 10).min(bytes.len() - seen.len());
        seen.extend(read_at(&blob, seen.len(), len).await);
    }
    assert!(seen == bytes, "other bytes");
    assert_eq!(source.1.load(Ordering::Relaxed), 3, "one request for each window");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_anywhere_and_over_the_edge_of_a_window_are_right() {
    let (bytes, source, blob) = blob(WINDOW as usize + 4096);
    let edge = WINDOW as usize;
    for (offset, len) in [(edge - 10, 20), (edge + 4095, 1), (0, 1), (edge - 1, 1), (3, 100_000)] {
        assert_eq!(read_at(&blob, offset, len).await, bytes[offset..offset + len], "{offset} {len}");
    }
    assert_eq!(source.1.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn memory_is_bounded() {
    let (_, _, blob) = blob(WINDOW as usize * (KEPT + 3));
    for number in 0..KEPT + 3 {
        read_at(&blob, number * WINDOW as usize, 10).await;
    }
    assert!(blob.windows.kept().len() <= KEPT);
}
