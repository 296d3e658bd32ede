//! Flags of `ctr-remote images optimize`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::Convert;

/// Flags of `images optimize`.
#[derive(Clone, Debug, Args)]
pub struct Optimize {
    /// Take layers as they are that can be pulled lazily already and of which nothing was touched
    #[arg(long, conflicts_with = "estargz_external_toc")]
    pub reuse: bool,
    /// Convert only, without running anything: nothing of the image will be prefetched
    #[arg(long, conflicts_with = "prefetch_list")]
    pub no_optimize: bool,
    /// How long to watch the workload, in seconds
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub period: u64,
    /// Watch the workload until Ctrl-C instead of for a period
    #[arg(long, conflicts_with = "terminal")]
    pub wait_on_signal: bool,
    /// Watch the workload until a line of its standard output contains this; --period holds as well
    #[arg(long, value_name = "TEXT")]
    pub wait_on_line: Option<String>,
    /// Write what was touched to a file, for convert --estargz-record-in
    #[arg(long, value_name = "FILE")]
    pub record_out: Option<PathBuf>,
    /// Run nothing: what to prefetch is listed in a file, a path or a pattern (with *, ?, [] and **) to a line
    #[arg(long, value_name = "FILE")]
    pub prefetch_list: Option<PathBuf>,
    /// Give the workload a terminal
    #[arg(long, short)]
    pub terminal: bool,
    /// User of the workload instead of the image's
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory instead of the image's
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Arguments instead of the image's command, as a JSON array
    #[arg(long, value_name = "JSON", value_parser = list)]
    pub args: Option<Words>,
    /// Entrypoint instead of the image's, as a JSON array
    #[arg(long, value_name = "JSON", value_parser = list)]
    pub entrypoint: Option<Words>,
    /// Variable of the environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// File of such variables, one to a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Something to be mounted, as type=bind,src=/a,dst=/b,options=rbind:ro; may be repeated
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<optimize::Mount>,
    /// Addresses of name servers
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "8.8.8.8")]
    pub dns_nameservers: Vec<String>,
    /// Domains to look for short names in
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub dns_search_domains: Vec<String>,
    /// Options of the resolver
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    pub dns_options: Vec<String>,
    /// Names in /etc/hosts
    #[arg(long, value_name = "HOST:IP", value_delimiter = ',')]
    pub add_hosts: Vec<String>,
    /// Use the host's network; without it there is none but the loopback
    #[arg(long)]
    pub net_host: bool,
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
    /// Accepted for scripts and not needed: decompression is built in
    #[arg(long, visible_alias = "GH", value_name = "PROGRAM", default_value = "", value_parser = ["", "pigz", "igzip", "gzip"], hide_possible_values = true)]
    pub estargz_gzip_helper: String,
    /// Convert layers to zstd:chunked instead of eStargz; with --oci
    #[arg(long, requires = "oci", conflicts_with = "estargz_external_toc")]
    pub zstdchunked: bool,
    /// Zstd level, 1 to 22
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub zstdchunked_compression_level: i32,
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

/// A JSON array of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

fn list(text: &str) -> Result<Words, String> {
    serde_json::from_str(text)
        .map(Words)
        .map_err(|error| format!("not a JSON array of strings, as [\"sh\", \"-c\", \"true\"]: {error}"))
}

impl Optimize {
    /// What is said of the conversion.
    pub fn conversion(&self) -> Convert {
        Convert {
            estargz: !self.zstdchunked,
            estargz_record_in: None,
            estargz_compression_level: self.estargz_compression_level,
            estargz_chunk_size: self.estargz_chunk_size,
            estargz_min_chunk_size: self.estargz_min_chunk_size,
            estargz_parallelism: self.estargz_parallelism,
            estargz_external_toc: self.estargz_external_toc,
            estargz_keep_diff_id: false,
            estargz_gzip_helper: self.estargz_gzip_helper.clone(),
            zstdchunked: self.zstdchunked,
            zstdchunked_record_in: None,
            zstdchunked_compression_level: self.zstdchunked_compression_level,
            zstdchunked_chunk_size: 0,
            uncompress: false,
            oci: self.oci,
            platform: self.platform.clone(),
            all_platforms: self.all_platforms,
            source: self.source.clone(),
            target: self.target.clone(),
        }
    }

    /// How long to watch.
    pub fn until(&self) -> optimize::Until {
        let period = (!self.wait_on_signal).then(|| Duration::from_secs(self.period));
        optimize::Until { period, line: self.wait_on_line.clone() }
    }
}
