//! Converts the images of a layout or an archive: `convert-layout FORMAT SOURCE DIRECTORY [NAME]`.
//!
//! FORMAT is `estargz`, `external`, `lossless` or `zstd`. Paths on standard input, one a line, come first. Prints what
//! became of each layer.
#![allow(clippy::print_stdout)]

use std::io::{IsTerminal as _, Read as _};
use std::time::Instant;

use builder::{Format, Gzip, Zstd};
use convert::image::{Converter, Options, TOC_NAME_SUFFIX};
use convert::layout::{Layout, Writer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, source, target, name @ ..] = arguments.as_slice() else {
        return Err("usage: convert-layout FORMAT SOURCE DIRECTORY [NAME]".into());
    };
    let name = name.first().map(String::as_str);
    let gzip = Gzip::default();
    let format = match format.as_str() {
        "estargz" => Format::Estargz(gzip),
        "external" => Format::ExternalToc { gzip, lossless: false },
        "lossless" => Format::ExternalToc { gzip, lossless: true },
        "zstd" => Format::ZstdChunked(Zstd { podman: true, ..Zstd::default() }),
        other => return Err(format!("unknown format {other:?}").into()),
    };
    let mut options = Options::new(builder::Options::new(format));
    if !std::io::stdin().is_terminal() {
        let mut list = String::new();
        std::io::stdin().read_to_string(&mut list)?;
        options.prioritized = list.lines().map(str::to_owned).collect();
        options.allow_missing = true;
    }
    let start = Instant::now();
    let source = Layout::open(source)?;
    let target = Writer::open(target)?;
    let converted = Converter::new(options).convert(&source, source.image(name)?, &target)?;
    let name = name.unwrap_or("latest");
    let toc_name = format!("{name}{TOC_NAME_SUFFIX}");
    let mut images = vec![(Some(name), &converted.image)];
    images.extend(converted.toc_image.as_ref().map(|image| (Some(toc_name.as_str()), image)));
    target.publish(&images)?;
    for layer in &converted.layers {
        println!(
            "{} {} -> {} {} {:?}",
            layer.source, layer.source_size, layer.target, layer.target_size, layer.action
        );
    }
    println!("{name} {} in {:.2?}", converted.image.digest, start.elapsed());
    if !converted.missing.is_empty() {
        println!("not in the image: {}", converted.missing.join(", "));
    }
    Ok(())
}
