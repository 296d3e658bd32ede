//! How long an image of 200,000 files takes, and how much memory. Plain timing: `cargo bench -p erofs`.

use std::io::{self, Write};
use std::time::Instant;

use erofs::{Attributes, Content, ImageWriter, Options};

const DIRECTORIES: usize = 10_000;
const FILES_PER_DIRECTORY: usize = 20;

fn main() -> io::Result<()> {
    let before = memory("VmRSS:");
    let start = Instant::now();
    let mut writer = ImageWriter::new(Options::default());
    let mut data_len = 0;
    let mut name_bytes = 0;
    for i in 0..DIRECTORIES {
        let name = format!("directory-{i}");
        name_bytes += name.len();
        let directory = writer
            .add(writer.root(), name.as_bytes(), attributes(0o755), Content::Directory)
            .map_err(io::Error::other)?;
        for j in 0..FILES_PER_DIRECTORY {
            let name = format!("library-file-{j}.so");
            name_bytes += name.len();
            let content = Content::File { size: 5000, data_offset: data_len };
            data_len += 8192;
            writer.add(directory, name.as_bytes(), attributes(0o644), content).map_err(io::Error::other)?;
        }
    }
    let added = start.elapsed();
    let layout = writer.write(data_len, io::sink()).map_err(io::Error::other)?;
    let total = start.elapsed();
    let peak = memory("VmHWM:").saturating_sub(before) * 1024;
    let mut out = io::stdout().lock();
    writeln!(out, "{} inodes, {} bytes of metadata", layout.inodes, layout.metadata_len)?;
    writeln!(out, "add {added:.1?}, write {:.1?}, together {total:.1?}", total - added)?;
    let per_inode = peak.saturating_sub(name_bytes) / layout.inodes as usize;
    writeln!(out, "peak {peak} bytes, {per_inode} for each inode besides its name")
}

fn attributes(mode: u16) -> Attributes {
    Attributes { mode, mtime: 1_700_000_000, ..Attributes::default() }
}

/// A figure of this process in KiB; 0 where there is no procfs.
fn memory(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
