//! `stargz cache`: what layers there are on disk, less of them, and whether they are what they should be.

pub mod args;
mod commands;
mod ls;
mod prune;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use format::Digest;
use layer::{CacheBudget, Layers, LayersOptions};

pub use commands::Commands;

use self::args::{Cache, Verb};

/// Does what was typed.
///
/// # Errors
/// Says which layer, file or daemon is in the way.
pub fn run(flags: &Cache) -> anyhow::Result<()> {
    let root = std::path::absolute(&flags.root).context("cannot tell where the root directory is")?;
    if !layers_dir(&root).is_dir() {
        anyhow::bail!("there are no layers in {}; --root says where they are", root.display());
    }
    match &flags.verb {
        Verb::Ls(flags) => ls::run(&root, flags),
        Verb::Prune(flags) => prune::run(&root, flags),
        Verb::Verify(flags) => verify::run(&root, flags),
    }
}

fn layers_dir(root: &Path) -> PathBuf {
    root.join("layers")
}

/// Digests of the layers that are shown, by whomever and whatever the backend.
fn mounted(root: &Path) -> anyhow::Result<Vec<Digest>> {
    let layers = layers_dir(root);
    let layers = layers.canonicalize().unwrap_or(layers);
    let of_path = |path: &Path| -> Option<Digest> {
        let mut names = path.strip_prefix(&layers).ok()?.iter().map(|name| name.to_str());
        let (algorithm, hex) = (names.next()??, names.next()??);
        format!("{algorithm}:{hex}").parse().ok()
    };
    let of_mount = |mount: &mount::MountInfo| {
        let source = Path::new(&mount.source);
        if mount.fs_type == "fuse" {
            // The tree of a layer has its digest as its name, with a number behind it from the second on.
            let name = mount.root.file_name()?.to_str()?;
            return format!("sha256:{}", name.split('.').next()?).parse().ok();
        }
        match source
            .strip_prefix("/dev")
            .ok()
            .filter(|name| name.to_str().is_some_and(|name| name.starts_with("loop")))
        {
            Some(device) => {
                let file = Path::new("/sys/class/block").join(device).join("loop/backing_file");
                of_path(Path::new(std::fs::read_to_string(file).ok()?.trim_end()))
            }
            None => of_path(source),
        }
    };
    Ok(mount::mounts_below(Path::new("/"))?.iter().filter_map(of_mount).collect())
}

/// Works on the layers as the process that owns them. Nothing is given up behind its back.
fn as_owner<T>(
    root: &Path,
    work: impl AsyncFnOnce(&std::sync::Arc<Layers>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut options = LayersOptions::new(layers_dir(root));
    options.cache = CacheBudget { min_free: 0, ..CacheBudget::default() };
    crate::runtime()?.block_on(async {
        let layers = Layers::open(options)?;
        let result = work(&layers).await;
        layers.close().await;
        result
    })
}

/// Prints a line; that nobody reads it any more is no error.
fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_for_people() {
        let expected = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (150 << 20, "150 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (5 << 40, "5.0 TiB"),
        ];
        for (bytes, text) in expected {
            assert_eq!(human(bytes), text);
        }
    }
}
