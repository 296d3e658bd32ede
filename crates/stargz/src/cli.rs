//! What people type.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand};

use crate::cache_cli::args::Cache;
use crate::config_cli::args::Config;
use crate::logging::{LogFormat, LogLevel};
use crate::profile::args::Profile;
use crate::status_cli::args::{Debug, Status, Top};
use crate::tools::args as tools;

/// Version and revision.
pub const VERSION: &str = env!("STARGZ_VERSION");

/// Containers start before their image is downloaded.
#[derive(Debug, Parser)]
#[command(name = "stargz", version = VERSION, about, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Stargz {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `stargz`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve containerd as its remote snapshotter (what containerd-stargz-grpc does)
    Snapshotter(Snapshotter),
    /// Give Podman, CRI-O and Buildah layers that are not downloaded (what stargz-store does)
    Store(Store),
    /// Show the root file system of an image at a directory, read-only, fetching contents when they are read
    Mount(Mount),
    /// Take away what `stargz mount` shows
    Umount(Umount),
    /// Look after the layers on disk
    Cache(Cache),
    /// Say what the daemon serves, how far it is, and what is not lazy and why
    Status(Status),
    /// The same, live
    Top(Top),
    /// See, share and forget what containers read first
    Profile(Profile),
    /// Collect what is needed to find out what is wrong
    Debug(Debug),
    /// Check, print and migrate configuration files
    Config(Config),
    /// Make an image lazily pullable; needs neither containerd nor root
    Convert(tools::Convert),
    /// Tell what an image or a layer is made of, and why it is not lazily pullable
    Inspect(tools::Inspect),
    /// Check every chunk of an image against its table of contents, and that against the manifest
    Verify(tools::Verify),
    /// Compare what a converted image shows with the original, layer by layer
    Diff(tools::Diff),
    /// Print completions for a shell
    Completions(tools::Completions),
    /// Write manual pages of all verbs into a directory
    #[command(hide = true)]
    Man(tools::Man),
    /// Replace the program of a running daemon by the one that is installed now, without an interruption
    Upgrade(Upgrade),
    /// Keep FUSE sessions while their daemon is away (the daemon starts this by itself)
    Keeper(Keeper),
}

/// Flags of `stargz upgrade`.
#[derive(Clone, Debug, Args)]
pub struct Upgrade {
    /// Directory of the daemon's state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/containerd-stargz-grpc")]
    pub root: PathBuf,
}

/// Flags of `stargz keeper`.
#[derive(Clone, Debug, Args)]
pub struct Keeper {
    /// Socket to listen on
    #[arg(long, value_name = "SOCKET")]
    pub address: PathBuf,
    /// End what nobody serves for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline: u64,
}

/// Flags of `containerd-stargz-grpc`.
#[derive(Clone, Debug, Args)]
pub struct Snapshotter {
    /// Socket of the snapshots service
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock"
    )]
    pub address: PathBuf,
    /// Configuration file; may be missing if it is the default one
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Refuse a configuration file with unknown keys
    #[arg(long)]
    pub strict_config: bool,
    /// How much to log; log_level in the configuration file comes before it
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// What log lines look like
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// Directory of the state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/containerd-stargz-grpc")]
    pub root: PathBuf,
}

/// The configuration file that need not be there.
pub const DEFAULT_CONFIG: &str = "/etc/containerd-stargz-grpc/config.toml";

/// `containerd-stargz-grpc`, the remote snapshotter of containerd.
#[derive(Debug, Parser)]
#[command(
    name = "containerd-stargz-grpc",
    version = VERSION,
    max_term_width = 100,
    about = "Remote snapshotter of containerd: containers start before their image is downloaded",
    after_help = "Flags may be written with one dash or two. SIGTERM ends the daemon and leaves layers mounted: \
                  what containers read waits for the next daemon. SIGUSR2 goes on as the program that is \
                  installed now. SIGINT unmounts everything."
)]
pub struct SnapshotterProgram {
    /// Flags.
    #[command(flatten)]
    pub flags: Snapshotter,
}

/// Flags of `stargz-store`.
#[derive(Clone, Debug, Args)]
pub struct Store {
    /// Where the tools look for layers; made if it is not there
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Socket for credentials that the tools hand over
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_STORE_SOCKET)]
    pub addr: PathBuf,
    /// Configuration file; may be missing if it is the default one. Empty: none
    #[arg(long, value_name = "FILE", default_value = DEFAULT_STORE_CONFIG,
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from))]
    pub config: PathBuf,
    /// Refuse a configuration file with unknown keys
    #[arg(long)]
    pub strict_config: bool,
    /// How much to log; log_level in the configuration file comes before it
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// What log lines look like
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// Directory of the state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stargz-store")]
    pub root: PathBuf,
}

/// The configuration file of the layer store that need not be there.
pub const DEFAULT_STORE_CONFIG: &str = "/etc/stargz-store/config.toml";
/// Where the layer store takes credentials.
pub const DEFAULT_STORE_SOCKET: &str = "/var/lib/stargz-store/store.sock";

/// `stargz-store`, the additional layer store.
#[derive(Debug, Parser)]
#[command(
    name = "stargz-store",
    version = VERSION,
    max_term_width = 100,
    about = "Additional layer store: Podman, CRI-O and Buildah run images that are not downloaded",
    after_help = "Tell the tools of it in storage.conf:\n  [storage.options]\n  additionallayerstores = \
                  [\"/var/lib/stargz-store/store:ref\"]\nFlags may be written with one dash or two. SIGTERM and SIGINT \
                  unmount everything; what is in use is remembered."
)]
pub struct StoreProgram {
    /// Flags.
    #[command(flatten)]
    pub flags: Store,
}

/// `stargz-store-helper`, which container tools run with credentials on its standard input.
#[derive(Debug, Parser)]
#[command(
    name = "stargz-store-helper",
    version = VERSION,
    max_term_width = 100,
    about = "Hands registry credentials over to stargz-store",
    after_help = "Reads {\"IMAGE\": {\"username\": ..., \"password\": ..., \"identityToken\": ...}} from its standard input. \
                  Tell the tools of it in registries.conf:\n  additional-layer-store-auth-helper = \"stargz-store-helper\""
)]
pub struct StoreHelperProgram {
    /// Socket of the store; /var/lib/stargz-store/store.sock, or ~/.local/share/stargz-store/store.sock for users other
    /// than root
    #[arg(value_name = "SOCKET")]
    pub socket: Option<PathBuf>,
}

/// Flags of `stargz mount`.
#[derive(Clone, Debug, Args)]
pub struct Mount {
    /// Image, e.g. ghcr.io/stargz-containers/python:3.9-esgz
    #[arg(value_name = "REF")]
    pub reference: String,
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Keep layers here, and take them from here; without it they go when the image is unmounted
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Configuration file with registries and limits, as of containerd-stargz-grpc
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Plain HTTP to the image's registry (always so on loopback)
    #[arg(long)]
    pub plain_http: bool,
    /// Use layers whose manifest gives no digest of their table of contents
    #[arg(long)]
    pub skip_content_verify: bool,
    /// Stay in the foreground until the image is unmounted
    #[arg(long)]
    pub foreground: bool,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: LogLevel,
}

/// Flags of `stargz umount`.
#[derive(Clone, Debug, Args)]
pub struct Umount {
    /// The directory given to `stargz mount`
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Detach even if it is in use; what is still open can be read only as far as it is in memory
    #[arg(long, short)]
    pub lazy: bool,
}

/// Which program the executable was called as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// `stargz` itself, or a name that nobody knows.
    Stargz,
    /// The remote snapshotter.
    Snapshotter,
    /// The additional layer store.
    Store,
    /// What hands credentials over to it.
    StoreHelper,
    /// The image tools.
    CtrRemote,
}

impl Face {
    /// The face behind `argv[0]`.
    pub fn of(program: Option<&OsStr>) -> Face {
        let name =
            program.map(std::path::Path::new).and_then(|path| path.file_name()).and_then(OsStr::to_str);
        match name {
            Some("containerd-stargz-grpc") => Face::Snapshotter,
            Some("stargz-store") => Face::Store,
            Some("stargz-store-helper") => Face::StoreHelper,
            Some("ctr-remote") => Face::CtrRemote,
            _ => Face::Stargz,
        }
    }
}

/// Gives long flags with one dash, as Go programs take them, their second one.
pub fn with_two_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
                format!("-{text}").into()
            }
            _ => arg,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Stargz::command().debug_assert();
        SnapshotterProgram::command().debug_assert();
        StoreProgram::command().debug_assert();
        StoreHelperProgram::command().debug_assert();
    }

    #[test]
    fn flags_of_unit_files_written_for_go_are_understood() {
        let args = ["containerd-stargz-grpc", "-log-level=debug", "--config=/c", "-root", "/r", "-h"];
        let args = with_two_dashes(args.iter().map(OsString::from));
        assert_eq!(
            args,
            ["containerd-stargz-grpc", "--log-level=debug", "--config=/c", "--root", "/r", "-h"]
        );
        let parsed = SnapshotterProgram::try_parse_from(&args[..5]).unwrap();
        assert_eq!((parsed.flags.log_level, parsed.flags.root), (LogLevel::Debug, PathBuf::from("/r")));
    }

    #[test]
    fn the_program_follows_its_name() {
        let face = |name: &str| Face::of(Some(OsStr::new(name)));
        assert_eq!(face("/usr/local/bin/containerd-stargz-grpc"), Face::Snapshotter);
        assert_eq!(
            [face("stargz-store"), face("stargz-store-helper"), face("ctr-remote"), face("x")],
            [Face::Store, Face::StoreHelper, Face::CtrRemote, Face::Stargz]
        );
    }
}
