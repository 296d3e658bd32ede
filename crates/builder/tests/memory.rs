//! What a large layer costs in memory. A process of its own, because it measures the process.

use std::fs;
use std::io::{self, Read};

use builder::{Builder, Format, Gzip, Options};
use testkit::tarball::{Member, Type, archive};

const FILES: u64 = 12;
const FILE_SIZE: usize = 64 << 20;
const SMALL_FILES: u64 = 40_000;
const PEAK_MAX: u64 = 128 << 20;

/// An archive that is made while it is read: large files that do not compress, then many small ones.
struct Archive {
    file: u64,
    header: Vec<u8>,
    content: usize,
    state: u64,
}

impl Archive {
    fn next_file(&mut self) {
        let large = self.file < FILES;
        let member =
            Member::new(Type::File, format!("usr/share/directory{}/file{}", self.file / 100, self.file));
        self.header = archive(&[member]);
        self.header.truncate(512);
        if large {
            self.content = FILE_SIZE;
            self.header[124..135].copy_from_slice(format!("{FILE_SIZE:011o}").as_bytes());
            self.header[148..156].fill(b' ');
            let sum: u32 = self.header.iter().map(|byte| u32::from(*byte)).sum();
            self.header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        self.file += 1;
    }
}

impl Read for Archive {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.header.is_empty() && self.content == 0 {
            if self.file == FILES + SMALL_FILES {
                return Ok(0);
            }
            self.next_file();
        }
        if !self.header.is_empty() {
            let size = out.len().min(self.header.len());
            out[..size].copy_from_slice(&self.header[..size]);
            self.header.drain(..size);
            return Ok(size);
        }
        let size = out.len().min(self.content);
        for part in out[..size].chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            part.copy_from_slice(&self.state.to_le_bytes()[..part.len()]);
        }
        self.content -= size;
        Ok(size)
    }
}

/// A value of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    let format = Format::Estargz(Gzip { level: 0, min_chunk_size: 0 });
    let options = Options { threads: 2, ..Options::new(format) };
    let source = Archive { file: 0, header: Vec::new(), content: 0, state: 88_172_645_463_325_252 };
    let start = std::time::Instant::now();
    let built = Builder::new(options).build(source, io::sink()).unwrap();
    let peak = status("VmHWM");
    eprintln!("{} MB: peak {} KiB, {:?}", built.uncompressed_size / 1_000_000, peak >> 10, start.elapsed());
    assert!(built.uncompressed_size > FILES * FILE_SIZE as u64);
    assert!(peak < PEAK_MAX, "{peak} bytes");
}
