//! Packages, made from one list of files ([`layout`]) by the tools that each kind of package has for that.
//!
//! The same sources, executable and `SOURCE_DATE_EPOCH` give the same bytes: times, owners, order and modes of all that
//! is packed come from here, not from the machine.

mod deb;
mod elf;
mod layout;
mod rpm;
mod tarball;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};

/// What can go wrong while packing is told to a person, and ends it.
type Error = Box<dyn std::error::Error>;

/// The version of all crates of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Flags of `cargo xtask dist`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Pack this executable; without it, the release executable is built first.
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,

    /// Where packages are written; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,

    /// What to make. Without it: the tarballs, and what this machine has the tools for.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,

    /// Compress little, to be quick; for tests.
    #[arg(long)]
    quick: bool,
}

/// A kind of package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Tarball,
    Deb,
    Rpm,
}

/// What all kinds of packages are made from.
#[derive(Debug)]
struct Job {
    /// The top of the repository.
    repo: PathBuf,
    /// The executable to pack.
    bin: PathBuf,
    /// What it was built for.
    target: elf::Target,
    /// Where packages go; absolute.
    out: PathBuf,
    /// Room for trees that are packed; removed at the end.
    work: PathBuf,
    /// The time of all that is packed, seconds since 1970.
    epoch: u64,
    /// Compress little.
    quick: bool,
}

/// Makes the packages that `flags` ask for, and prints their paths.
///
/// # Errors
/// A tool is missing that was asked for by name, or fails; a file of the list is not there; the executable is none.
pub fn run(flags: &Flags) -> Result<(), Error> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).ok_or("no workspace")?.to_path_buf();
    let epoch = epoch(&repo)?;
    let bin = match &flags.bin {
        Some(bin) => bin.clone(),
        None => build(&repo)?,
    };
    let target = elf::Target::of(&fs::read(&bin).map_err(|error| format!("{}: {error}", bin.display()))?)
        .map_err(|error| format!("{}: {error}", bin.display()))?;
    fs::create_dir_all(&flags.out).map_err(|error| format!("{}: {error}", flags.out.display()))?;
    let out = flags.out.canonicalize()?;
    let work = out.join(format!(".work-{}", std::process::id()));
    fs::create_dir(&work)?;
    let job = Job { repo, bin: bin.canonicalize()?, target, out, work, epoch, quick: flags.quick };
    let result = pack(&job, &flags.only);
    fs::remove_dir_all(&job.work)?;
    for package in result? {
        say(&package.display().to_string());
    }
    Ok(())
}

fn pack(job: &Job, only: &[Kind]) -> Result<Vec<PathBuf>, Error> {
    let wanted = |kind| only.is_empty() || only.contains(&kind);
    let mut packages = Vec::new();
    if wanted(Kind::Tarball) {
        packages.extend(tarball::make(job)?);
    }
    for (kind, tool, package, make) in [
        (Kind::Deb, "dpkg-deb", "dpkg", deb::make as fn(&Job) -> Result<PathBuf, Error>),
        (Kind::Rpm, "rpmbuild", "rpm-build, or rpm on Debian", rpm::make),
    ] {
        if !wanted(kind) {
            continue;
        }
        if is_there(tool) {
            packages.push(make(job)?);
        } else if only.is_empty() {
            eprintln!("xtask: no {kind:?}: there is no {tool} here (package {package})");
        } else {
            return Err(format!("{tool} is not installed (package {package})").into());
        }
    }
    Ok(packages)
}

/// The time of the last commit, unless `SOURCE_DATE_EPOCH` says another.
fn epoch(repo: &Path) -> Result<u64, Error> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(repo)).map_err(
            |error| format!("set SOURCE_DATE_EPOCH, as this is no clone of the repository: {error}"),
        )?,
    };
    text.trim().parse().map_err(|_| format!("SOURCE_DATE_EPOCH is {text:?}, not seconds since 1970").into())
}

/// Builds the release executable, without the paths of this machine in it.
fn build(repo: &Path) -> Result<PathBuf, Error> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), PathBuf::from);
    let home = env::var("CARGO_HOME").or_else(|_| env::var("HOME").map(|home| home + "/.cargo"))?;
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    for (from, to) in [(home.as_str(), "/cargo"), (&repo.display().to_string(), "/stargz")] {
        flags += &format!(" --remap-path-prefix={from}={to}");
    }
    run_tool(
        Command::new(cargo)
            .args(["build", "--release", "--locked", "--package", "stargz", "--bin", "stargz"])
            .current_dir(repo)
            .env("RUSTFLAGS", flags.trim()),
    )?;
    Ok(target.join("release/stargz"))
}

fn is_there(tool: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

/// Runs a tool whose output nobody reads; what it says on an error is in the error.
fn run_tool(command: &mut Command) -> Result<(), Error> {
    output(command).map(|_| ())
}

/// Runs a tool, and gives its standard output.
fn output(command: &mut Command) -> Result<String, Error> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let done =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{tool} does not start: {error}"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    if done.status.success() {
        return Ok(said.into_owned());
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    Err(format!("{tool} failed, {}:\n{said}{errors}", done.status).into())
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}
