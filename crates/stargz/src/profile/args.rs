//! What people type behind `stargz profile`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Flags of `stargz profile`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Profile {
    /// Directory of the daemon's state
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/containerd-stargz-grpc")]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `stargz profile`.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the images of which the first reads are known
    Ls(Ls),
    /// Print the profile of an image, for another node
    Export(Export),
    /// Use a profile of another node from now on
    Apply(Apply),
    /// Forget what is known of images
    Rm(Rm),
}

/// Flags of `stargz profile ls`.
#[derive(Clone, Debug, Args)]
pub struct Ls {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Flags of `stargz profile export`.
#[derive(Clone, Debug, Args)]
pub struct Export {
    /// The image, as `stargz profile ls` prints it
    #[arg(value_name = "REF")]
    pub image: String,
}

/// Flags of `stargz profile apply`.
#[derive(Clone, Debug, Args)]
pub struct Apply {
    /// What `stargz profile export` printed; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For this image instead of the one that it was recorded for
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
}

/// Flags of `stargz profile rm`.
#[derive(Clone, Debug, Args)]
pub struct Rm {
    /// The images, as `stargz profile ls` prints them
    #[arg(value_name = "REF", required = true)]
    pub images: Vec<String>,
}
