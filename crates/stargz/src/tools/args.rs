//! What people type after `stargz convert`, `inspect`, `verify`, `diff` and `completions`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How registries are reached.
#[derive(Clone, Debug, Args)]
pub struct Registries {
    /// Configuration file with registries and credentials, as of containerd-stargz-grpc; may be missing if it is the default
    #[arg(long, value_name = "FILE", default_value = crate::cli::DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Speak plain HTTP to this host, with its port (always so on loopback); may be repeated
    #[arg(long, value_name = "HOST")]
    pub plain_http: Vec<String>,
}

/// What layers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// gzip, for every container engine
    Estargz,
    /// gzip with the table of contents in an image of its own, called as the new one with -esgztoc
    ExternalToc,
    /// zstd, smaller and faster; Podman, Buildah and CRI-O know it as zstd:chunked
    ZstdChunked,
}

/// Flags of `stargz convert`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PLACES)]
pub struct Convert {
    /// Image to convert
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where the new image goes
    #[arg(value_name = "DST")]
    pub target: String,
    /// Kind of the new layers
    #[arg(long, value_enum, default_value_t = Format::Estargz)]
    pub format: Format,
    /// How hard to compress: 0 to 9 for gzip (9 if not given), 1 to 22 for zstd (3 if not given)
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<u8>,
    /// Size of chunks in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub chunk_size: u32,
    /// Put several files into one gzip member until it has this many bytes: smaller, but needs recent readers
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub min_chunk_size: u64,
    /// Keep the layers' uncompressed bytes, and with them their diff IDs (with --format external-toc)
    #[arg(long)]
    pub keep_diff_id: bool,
    /// Convert only the image for this platform, as linux/arm64; may be repeated
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    pub platform: Vec<String>,
    /// Convert the images for all platforms (the default)
    #[arg(long)]
    pub all_platforms: bool,
    /// Put these files first, to be fetched when a container starts: a path or a pattern (*, ?, [a-z], **) a line
    #[arg(long, value_name = "FILE")]
    pub prefetch_list: Option<PathBuf>,
    /// Put the files first that were read when this was recorded (JSON lines, as ctr-remote's --record-out writes them)
    #[arg(long, value_name = "FILE", conflicts_with = "prefetch_list")]
    pub record_in: Option<PathBuf>,
    /// Fail when a file that is to be first is not in the image, instead of saying so
    #[arg(long)]
    pub strict: bool,
    /// Take layers as they are that have the format already
    #[arg(long)]
    pub reuse: bool,
    /// Keep docker's media types; lazy pulls are then not verified, since these leave no place for digests
    #[arg(long)]
    pub docker_media_types: bool,
    /// Layers converted at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub parallel: usize,
    /// Threads for each layer; 0 for one a core. The result is the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Directory for temporary files: about the size of the layers in work, uncompressed ($TMPDIR if not given)
    #[arg(long, value_name = "DIR")]
    pub temporary: Option<PathBuf>,
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress
    #[arg(long, short)]
    pub quiet: bool,
    /// Registries.
    #[command(flatten)]
    pub registries: Registries,
}

/// Flags of `stargz inspect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PLACES)]
pub struct Inspect {
    /// Image, or a file with one layer
    #[arg(value_name = "REF|FILE")]
    pub image: String,
    /// Only the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Registries.
    #[command(flatten)]
    pub registries: Registries,
}

/// Flags of `stargz verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PLACES)]
pub struct Verify {
    /// Image
    #[arg(value_name = "REF")]
    pub image: String,
    /// Only the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Registries.
    #[command(flatten)]
    pub registries: Registries,
}

/// Flags of `stargz diff`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PLACES)]
pub struct Diff {
    /// The image as it was
    #[arg(value_name = "ORIGINAL")]
    pub original: String,
    /// The image that was made of it
    #[arg(value_name = "CONVERTED")]
    pub converted: String,
    /// The image for this platform (this machine's if not given)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Registries.
    #[command(flatten)]
    pub registries: Registries,
}

/// Flags of `stargz completions`.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Flags of `stargz man`.
#[derive(Clone, Debug, Args)]
pub struct Man {
    /// Directory for the pages
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

const PLACES: &str = "Images are named as skopeo names them:
  REF, docker://REF          in a registry
  oci:DIR[:TAG]              in an OCI image layout
  oci-archive:FILE[:TAG]     in an archive of one
  docker-archive:FILE[:REF]  in what docker save writes
  /PATH, ./PATH              any of these on disk, found out by itself (to be read)";
