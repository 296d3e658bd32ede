//! Builds one layer from a file: `build-layer FORMAT SOURCE TARGET [LEVEL [THREADS [CHUNK_SIZE [MIN_CHUNK_SIZE]]]]`.
//!
//! FORMAT is `estargz`, `external`, `lossless` or `zstd`. Paths on standard input, one a line, come first. An external
//! TOC goes to TARGET.toc. Prints what was built, how long it took and the most memory that it needed.
#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal as _, Read as _};
use std::time::Instant;

use builder::{Builder, Format, Gzip, Options, Zstd};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, source, target, numbers @ ..] = arguments.as_slice() else {
        return Err(
            "usage: build-layer FORMAT SOURCE TARGET [LEVEL [THREADS [CHUNK_SIZE [MIN_CHUNK_SIZE]]]]".into(),
        );
    };
    let number =
        |position: usize, default: u32| numbers.get(position).map_or(Ok(default), |text| text.parse());
    let gzip = Gzip { level: number(0, 9)? as u8, min_chunk_size: number(3, 0)?.into() };
    let format = match format.as_str() {
        "estargz" => Format::Estargz(gzip),
        "external" => Format::ExternalToc { gzip, lossless: false },
        "lossless" => Format::ExternalToc { gzip, lossless: true },
        "zstd" => Format::ZstdChunked(Zstd { level: number(0, 3)? as i32, podman: true }),
        other => return Err(format!("unknown format {other:?}").into()),
    };
    let mut options = Options { threads: number(1, 0)? as usize, ..Options::new(format) };
    options.chunk_size = number(2, options.chunk_size)?;
    if !std::io::stdin().is_terminal() {
        let mut list = String::new();
        std::io::stdin().read_to_string(&mut list)?;
        options.prioritized = list.lines().map(str::to_owned).collect();
    }
    let start = Instant::now();
    let built = Builder::new(options).build(File::open(source)?, BufWriter::new(File::create(target)?))?;
    let time = start.elapsed();
    if let Some(toc) = &built.toc {
        fs::write(format!("{target}.toc"), &toc.bytes)?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("{built:#?}\n{time:.2?}, {peak}");
    Ok(())
}
