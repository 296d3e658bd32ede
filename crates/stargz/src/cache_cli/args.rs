//! What people type behind `stargz cache`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use format::Digest;

/// Flags of `stargz cache`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cache {
    /// Directory of the state: the daemon's --root, or what was given to `stargz mount --cache`
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/containerd-stargz-grpc")]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `stargz cache`.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the layers on disk, least recently used first
    #[command(
        after_help = "Works beside a running daemon. On a terminal it prints a table; otherwise one line for each \
                            layer with the same columns, separated by tabs: digest, bytes of the blob, of the image, on \
                            disk, chunks filled, chunks, `yes` if it is mounted, last use in seconds since 1970."
    )]
    Ls(Ls),
    /// Remove layers that nobody uses
    #[command(
        after_help = "A running daemon is asked to do it, and knows what is in use. Without one, layers count as used \
                            that are mounted now; others are fetched again if a snapshot turns out to need them."
    )]
    Prune(Prune),
    /// Compare what is on disk with the digests that pin it
    #[command(
        after_help = "Reads everything that is filled; works beside a running daemon. The exit code is 1 if anything \
                            is wrong and was not repaired."
    )]
    Verify(Verify),
}

/// Flags of `stargz cache ls`.
#[derive(Clone, Debug, Args)]
pub struct Ls {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Flags of `stargz cache prune`.
#[derive(Clone, Debug, Args)]
pub struct Prune {
    /// Also give up what can be given up of layers in use: contents that nobody read a short time ago. Without a daemon:
    /// all layers
    #[arg(long, conflicts_with = "keep")]
    pub all: bool,
    /// Stop when layers take no more than this: bytes, or a number with K, M, G or T (powers of 1024)
    #[arg(long, value_name = "SIZE")]
    pub keep: Option<Size>,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `stargz cache verify`.
#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// Layers to look at; all without any
    #[arg(value_name = "DIGEST")]
    pub digests: Vec<Digest>,
    /// Forget what is wrong, so that it is fetched again
    #[arg(long)]
    pub repair: bool,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let shift = match unit.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(format!("{unit:?} is none of K, M, G and T")),
        };
        let number: u64 = number.parse().map_err(|_| "no number of bytes".to_owned())?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| "more than there are disks for".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("1500"), Ok(1500));
        for text in ["20G", "20g", "20GB", "20GiB"] {
            assert_eq!(size(text), Ok(20 << 30), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "12X", "99999999T", "99999999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
