use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::image::{Chunk, Compression, META_VERSION, Meta, NO_DIR, SpanEntry, TablesBuilder};
use format::Digest;

/// A content of chunk `number`: no byte of it is zero.
fn content(number: usize, size: u64) -> Vec<u8> {
    (0..size).map(|at| (number as u64 * 7 + at % 250) as u8 | 1).collect()
}

/// An image whose contents have these chunk sizes; each content begins at a block.
fn files(contents: &[&[u64]]) -> (tempfile::TempDir, ImageFiles) {
    let dir = tempfile::tempdir().unwrap();
    let mut tables = TablesBuilder { chunks: Vec::new(), spans: Vec::new(), dirs: Vec::new(), data_len: 0 };
    for sizes in contents {
        let mut data = tables.data_len;
        for &size in *sizes {
            let number = tables.chunks.len();
            tables.chunks.push(Chunk {
                data,
                size,
                span: number as u32,
                inner_offset: 0,
                digest: Digest::of(&content(number, size)).sha256(),
            });
            let at = number as u64 * 10;
            tables.spans.push(SpanEntry { blob: at..at + 10, class: 0, dir: NO_DIR });
            data += size;
        }
        tables.data_len = data.next_multiple_of(BLOCK);
    }
    let path = dir.path().join(super::super::IMAGE_FILE);
    let image = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    image.set_len(BLOCK + tables.data_len).unwrap();
    let meta = Meta {
        undigested: false,
        version: META_VERSION,
        digest: Digest::of(b"blob"),
        toc_digest: Digest::of(b"toc"),
        compressed_toc_digest: None,
        blob_size: 1000,
        compression: Compression::Gzip,
        data_start: BLOCK,
        data_len: tables.data_len,
        prefetch_end: None,
        prefetch_spans: Vec::new(),
    };
    ImageFiles::write_beside(dir.path(), &image, &tables, &meta).unwrap();
    let files = ImageFiles::open(dir.path()).unwrap();
    (dir, files)
}

fn allocated(files: &ImageFiles) -> u64 {
    files.taken().unwrap().bytes - files.beside.bytes
}

fn fill(files: &ImageFiles, number: usize) {
    fill_with(files, number, &content(number, files.tables.chunk(number).unwrap().size));
}

fn fill_with(files: &ImageFiles, number: usize, content: &[u8]) {
    let chunk = files.tables.chunk(number).unwrap();
    let filling = files.filling();
    files.image.write_all_at(content, BLOCK + chunk.data).unwrap();
    files.mark_filled(number, &filling);
}

fn read(files: &ImageFiles, number: usize) -> Option<Vec<u8>> {
    let chunk = files.tables.chunk(number).unwrap();
    let mut buf = vec![0; chunk.size as usize];
    files.read_filled(number..number + 1, chunk.data, &mut buf).unwrap().then_some(buf)
}

#[test]
fn an_evicted_chunk_gives_its_blocks_back_and_its_neighbours_stay() {
    let (dir, files) = files(&[&[100_000, 100_000, 100_000], &[5000], &[70_000]]);
    for number in 0..5 {
        if number != 4 {
            fill(&files, number);
        }
    }
    files.filled.flush(&files.image).unwrap();
    let before = allocated(&files);
    // Chunk 4 was never there.
    let punched = files.evict(&[3, 1, 4]).unwrap();
    assert_eq!(punched, 8192 + (200_000 / BLOCK - 100_000_u64.div_ceil(BLOCK)) * BLOCK);
    assert_eq!(allocated(&files), before - punched);
    assert_eq!(read(&files, 1), None);
    assert_eq!(read(&files, 3), None);
    for number in [0, 2] {
        assert_eq!(read(&files, number).unwrap(), content(number, 100_000));
    }
    assert_eq!(files.filled.missing(), 3);
    let again = ImageFiles::open(dir.path()).unwrap();
    assert!(again.filled.get(0) && !again.filled.get(1) && again.filled.get(2) && !again.filled.get(3));
    fill(&files, 1);
    assert_eq!(read(&files, 1).unwrap(), content(1, 100_000));
    assert_eq!(files.check(1).unwrap(), Some(true));
}

#[test]
fn blocks_that_two_evicted_chunks_share_go_as_well() {
    let (_dir, files) = files(&[&[10_000, 10_000, 1]]);
    (0..3).for_each(|number| fill(&files, number));
    files.evict(&[0, 1, 2]).unwrap();
    files.image.sync_all().unwrap();
    assert_eq!(allocated(&files), 0);
}

#[test]
fn what_the_kernel_may_read_alone_is_never_punched() {
    let (dir, files) = files(&[&[5000], &[5000]]);
    fill(&files, 0);
    assert!(!files.give_alone().unwrap());
    fill(&files, 1);
    assert!(files.give_alone().unwrap() && !files.may_evict());
    assert_eq!(files.evict(&[0, 1]).unwrap(), 0);
    assert!(files.filled.complete());
    // Nor by the next process, whatever becomes of the bits.
    files.disown(&[0]).unwrap();
    drop(files);
    let again = ImageFiles::open(dir.path()).unwrap();
    assert!(!again.filled.complete() && !again.may_evict());
    assert_eq!(again.evict(&[1]).unwrap(), 0);
}

#[test]
fn a_layer_that_is_complete_when_it_is_opened_may_be_in_the_kernels_hands() {
    let (dir, files) = files(&[&[5000]]);
    fill(&files, 0);
    files.filled.flush(&files.image).unwrap();
    assert!(files.may_evict());
    assert!(!ImageFiles::open(dir.path()).unwrap().may_evict());
}

#[test]
fn wrong_bytes_are_seen_and_disowned() {
    let (dir, files) = files(&[&[5000], &[5000]]);
    (0..2).for_each(|number| fill(&files, number));
    files.filled.flush(&files.image).unwrap();
    files.image.write_all_at(&[0xff], BLOCK + 3).unwrap();
    assert_eq!((files.check(0).unwrap(), files.check(1).unwrap()), (Some(false), Some(true)));
    files.disown(&[0]).unwrap();
    assert_eq!(files.check(0).unwrap(), None);
    assert!(!ImageFiles::open(dir.path()).unwrap().filled.get(0));
    assert!(files.check(2).is_err());
}

#[test]
fn a_chunk_that_is_punched_while_it_is_read_was_not_there() {
    let (_dir, files) = files(&[&[5000], &[5000]]);
    (0..2).for_each(|number| fill(&files, number));
    let mut evicted = false;
    let mut evict_once = |chunk| {
        if !std::mem::replace(&mut evicted, true) {
            files.evict(&[chunk]).unwrap();
        }
        Ok(())
    };
    assert!(!files.read_by(0..1, || evict_once(0)).unwrap());
    assert_eq!(read(&files, 0), None);
    // That another one was punched costs a second look, no more.
    let mut looks = 0;
    let there = files.read_by(1..2, || {
        looks += 1;
        if looks == 1 {
            fill(&files, 0);
            files.evict(&[0]).unwrap();
        }
        Ok(())
    });
    assert!(there.unwrap() && looks == 2);
}

#[test]
fn a_chunk_that_is_filled_again_while_it_is_evicted_stays() {
    let (_dir, files) = files(&[&[5000], &[5000]]);
    (0..2).for_each(|number| fill(&files, number));
    std::thread::scope(|scope| {
        // Holds the punch up, not the cleared bit.
        let filling = files.filling();
        let evictor = scope.spawn(|| files.evict(&[0, 1]).unwrap());
        while files.filled.get(1) || files.filled.get(0) {
            std::thread::yield_now();
        }
        files.mark_filled(0, &filling);
        drop(filling);
        assert_eq!(evictor.join().unwrap(), 8192);
    });
    assert_eq!(read(&files, 0).unwrap(), content(0, 5000));
    assert_eq!(read(&files, 1), None);
}

/// Readers, fills, evictions and flushes of the same few chunks: a reader never sees a byte that is not the chunk's.
#[test]
fn readers_never_see_a_hole() {
    const CHUNKS: usize = 8;
    // Takes long to read, so that it is often punched in the middle of that.
    const LARGE: u64 = 4 << 20;
    let (_dir, files) = files(&[&[20_000; 4], &[9000, 9000, 9000], &[LARGE]]);
    let files = Arc::new(files);
    let stop = AtomicBool::new(false);
    let expected: Vec<_> =
        (0..CHUNKS).map(|number| content(number, files.tables.chunk(number).unwrap().size)).collect();
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    let reads = AtomicU64::new(0);
    let evictions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..3_usize {
            let (files, stop, expected, reads) = (&files, &stop, &expected, &reads);
            scope.spawn(move || {
                for round in reader.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = if round % 2 == 0 { CHUNKS - 1 } else { round / 2 % CHUNKS };
                    match read(files, number) {
                        Some(bytes) => {
                            assert!(bytes == expected[number], "chunk {number}");
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        None => fill_with(files, number, &expected[number]),
                    }
                }
            });
        }
        scope.spawn(|| {
            for round in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                files.evict(&[round % CHUNKS, CHUNKS - 1]).unwrap();
                evictions.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                files.filled.flush(&files.image).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        while std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.into_inner() > 10 && evictions.into_inner() > 3);
    for number in 0..CHUNKS {
        assert_ne!(files.check(number).unwrap(), Some(false));
    }
}
