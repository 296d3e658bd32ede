//! What people type after `ctr-remote`: the flags of `ctr` and of stargz-snapshotter's `ctr-remote`, in their order.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::optimize_args::Optimize;
use crate::cli::VERSION;

/// Makes and pulls lazily pullable images with containerd. Commands that are not listed here are those of ctr, which has to be installed for them.
#[derive(Debug, Parser)]
#[command(name = "ctr-remote", version = VERSION, about, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct CtrRemote {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Enable debug output in logs
    #[arg(long)]
    pub debug: bool,
    /// Address of containerd's socket
    #[arg(long, short, value_name = "SOCKET", default_value_os_t = address())]
    pub address: PathBuf,
    /// Total timeout, as 1m30s; 0s is none
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub timeout: Duration,
    /// Timeout for connecting to containerd; 0s is ten seconds
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// Namespace of containerd
    #[arg(long, short, value_name = "NAME", default_value_t = namespace())]
    pub namespace: String,
}

/// Groups of commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Manage images
    #[command(visible_aliases = ["image", "i"])]
    Images(Images),
}

/// Commands for images.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Images {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: ImageVerb,
}

/// Commands for images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Convert an image
    Convert(Box<Convert>),
    /// Get the digest of TOC of a layer
    GetTocDigest(GetTocDigest),
    /// Optimize an image for the workload that it is run for
    Optimize(Box<Optimize>),
    /// Pull an image from a registry, lazily where its layers allow it
    Rpull(Rpull),
}

/// Flags of `images convert`.
#[derive(Clone, Debug, Args)]
pub struct Convert {
    /// Convert layers to eStargz for lazy pulling; with --oci
    #[arg(long, conflicts_with_all = ["uncompress", "zstdchunked"])]
    pub estargz: bool,
    /// Put the files of a record of `optimize --record-out` first
    #[arg(long, value_name = "FILE")]
    pub estargz_record_in: Option<PathBuf>,
    /// Gzip level, 0 to 9
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub estargz_compression_level: u8,
    /// Chunk size in bytes; 0 is 4 MiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub estargz_chunk_size: u32,
    /// Least compressed bytes of a gzip member; 0 gives each chunk its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub estargz_min_chunk_size: u64,
    /// Threads that compress; 0 is one for each processor. The result does not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub estargz_parallelism: usize,
    /// Put the TOCs into an image of their own, TARGET-esgztoc
    #[arg(long)]
    pub estargz_external_toc: bool,
    /// Keep the diff IDs; with --estargz-external-toc
    #[arg(long, requires = "estargz_external_toc", conflicts_with = "estargz_record_in")]
    pub estargz_keep_diff_id: bool,
    /// Accepted for scripts and not needed: decompression is built in
    #[arg(long, visible_alias = "GH", value_name = "PROGRAM", default_value = "", value_parser = ["", "pigz", "igzip", "gzip"], hide_possible_values = true)]
    pub estargz_gzip_helper: String,
    /// Convert layers to zstd:chunked; with --oci
    #[arg(long, requires = "oci", conflicts_with = "uncompress")]
    pub zstdchunked: bool,
    /// Put the files of a record first, for --zstdchunked
    #[arg(long, value_name = "FILE")]
    pub zstdchunked_record_in: Option<PathBuf>,
    /// Zstd level, 1 to 22
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub zstdchunked_compression_level: i32,
    /// Chunk size in bytes for --zstdchunked; 0 is 4 MiB
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub zstdchunked_chunk_size: u32,
    /// Convert layers to uncompressed ones; done by ctr
    #[arg(long)]
    pub uncompress: bool,
    /// Convert Docker media types to OCI media types, which have a place for the TOC's digest
    #[arg(long)]
    pub oci: bool,
    /// Only images for this platform, as linux/arm64; may be repeated. This machine's if none is given
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', conflicts_with = "all_platforms")]
    pub platform: Vec<convert::Platform>,
    /// Images for all platforms, which must all be there
    #[arg(long)]
    pub all_platforms: bool,
    /// Image in containerd
    #[arg(value_name = "SOURCE_REF")]
    pub source: String,
    /// Name of the new image
    #[arg(value_name = "TARGET_REF")]
    pub target: String,
}

/// Flags of `images get-toc-digest`.
#[derive(Clone, Debug, Args)]
pub struct GetTocDigest {
    /// Parse the layer as zstd:chunked
    #[arg(long)]
    pub zstdchunked: bool,
    /// Print the TOC instead of its digest, indented; its digest is not that of what is printed
    #[arg(long)]
    pub dump_toc: bool,
    /// Digest of a layer in containerd
    #[arg(value_name = "LAYER_DIGEST")]
    pub layer: format::Digest,
}

/// Flags of `images rpull`.
#[derive(Clone, Debug, Args)]
pub struct Rpull {
    /// Skip verification of the registry's certificate
    #[arg(long, short = 'k')]
    pub skip_verify: bool,
    /// Connect with plain HTTP
    #[arg(long)]
    pub plain_http: bool,
    /// Who to be to the registry
    #[arg(long, short, value_name = "USER:PASSWORD")]
    pub user: Option<String>,
    /// Refresh token for the registry's token server
    #[arg(long, value_name = "TOKEN")]
    pub refresh: Option<String>,
    /// Directory of containerd's hosts.toml files
    #[arg(long, value_name = "DIR")]
    pub hosts_dir: Option<PathBuf>,
    /// Authorities to trust, PEM
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Label of the image; may be repeated
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub label: Vec<String>,
    /// Let the snapshotter use layers whose TOC has no digest in the manifest
    #[arg(long)]
    pub skip_content_verify: bool,
    /// Name of the snapshotter in containerd
    #[arg(long, value_name = "NAME", default_value = "stargz")]
    pub snapshotter: String,
    /// Tell the snapshotter by containerd's own labels instead of stargz-snapshotter's
    #[arg(long)]
    pub use_containerd_labels: bool,
    /// Image in a registry
    #[arg(value_name = "REF")]
    pub reference: String,
}

fn address() -> PathBuf {
    from_environment("CONTAINERD_ADDRESS").unwrap_or_else(|| containerd::DEFAULT_ADDRESS.into()).into()
}

fn namespace() -> String {
    from_environment("CONTAINERD_NAMESPACE")
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| containerd::DEFAULT_NAMESPACE.to_owned())
}

fn from_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A duration as Go writes it: `1h2m3.5s`, `300ms`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write it as 90s, 1m30s or 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let found = units.iter().find(|(unit, _)| rest[digits..].starts_with(unit));
        let (unit, worth) = found.ok_or_else(bad)?;
        seconds += number * worth;
        rest = &rest[digits + unit.len()..];
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !text.is_empty() => Ok(duration),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        CtrRemote::command().debug_assert();
    }

    #[test]
    fn durations_are_written_as_in_go() {
        assert_eq!(duration("1h2m3.5s"), Ok(Duration::from_millis(3_723_500)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!((duration("0"), duration("0s")), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
        for bad in ["", "5", "s", "1x", "..s", "-1s", "1e9h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
