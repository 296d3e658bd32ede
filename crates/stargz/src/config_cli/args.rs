//! What people type behind `stargz config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::DEFAULT_CONFIG;

/// Flags of `stargz config`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Config {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `stargz config`.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Say what is wrong with a configuration file, without using it
    #[command(after_help = "The exit code is 1 if the daemon would not start with the file.")]
    Check(Check),
    /// Print an annotated file with every key and its default
    Default,
    /// Say what a key, or all keys of a table, do
    Explain(Explain),
    /// Print the configuration of stargz-snapshotter, or of its plugin in containerd's or k3s' file, as one for us
    #[command(
        after_help = "What has no effect here stays behind, with a line on standard error that says why. Of containerd's \
                      file the table [plugins.\"io.containerd.snapshotter.v1.stargz\"] is taken."
    )]
    Migrate(Migrate),
}

/// Flags of `stargz config check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// The file
    #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub file: PathBuf,
    /// Fail for unknown keys, as the daemon does with --strict-config
    #[arg(long)]
    pub strict: bool,
}

/// Flags of `stargz config migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// The file
    #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub file: PathBuf,
}

/// Flags of `stargz config explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// A key with its table (blob.max_retries), or a table (blob); all keys without one
    #[arg(value_name = "KEY", default_value = "")]
    pub key: String,
}
