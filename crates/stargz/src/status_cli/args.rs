//! What people type behind `stargz status`, `stargz top` and `stargz debug`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::DEFAULT_CONFIG;

/// Where the daemon's state is.
const ROOT: &str = "/var/lib/containerd-stargz-grpc";

/// Flags of `stargz status`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Asks the running daemon on its control socket. FILLED is the part of a layer's chunks that is on disk; \
                  STALLED is how long readers have waited for contents; USED BY counts the containers over it. Layers that \
                  could not be mounted lazily, and why, are listed below."
)]
pub struct Status {
    /// Only images whose reference has this in it, or layers whose digest begins or ends with it
    #[arg(value_name = "REF", default_value = "")]
    pub only: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Draw which parts of each layer are on disk
    #[arg(long)]
    pub map: bool,
    /// Directory of the daemon's state
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    pub root: PathBuf,
}

/// Flags of `stargz top`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "On anything but a terminal it prints once. Ends with Ctrl-C.")]
pub struct Top {
    /// Only images whose reference has this in it
    #[arg(value_name = "REF", default_value = "")]
    pub only: String,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// Directory of the daemon's state
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    pub root: PathBuf,
}

/// Flags of `stargz debug`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Debug {
    /// What to do.
    #[command(subcommand)]
    pub verb: DebugVerb,
}

/// The verbs of `stargz debug`.
#[derive(Clone, Debug, Subcommand)]
pub enum DebugVerb {
    /// Write what somebody who is to help needs to know into one tar archive
    #[command(
        after_help = "Configuration with secrets masked, state, metrics and last log lines of the daemon if it runs, mount \
                      table, facts of the kernel and the disk. No contents of layers and no credentials."
    )]
    Bundle(Bundle),
}

/// Flags of `stargz debug bundle`.
#[derive(Clone, Debug, Args)]
pub struct Bundle {
    /// The archive, which must not exist; - is standard output
    #[arg(value_name = "FILE", default_value = "stargz-debug.tar")]
    pub file: PathBuf,
    /// Directory of the daemon's state
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    pub root: PathBuf,
    /// Configuration file, for when the daemon does not run
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}
