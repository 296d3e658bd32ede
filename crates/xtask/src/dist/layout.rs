//! The list of what is installed: one place, from which every package is made.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{Error, Job, run_tool};
use std::process::Command;

/// The names of the executable. It is one file; which program it is, its name tells.
pub const LINKS: [&str; 4] = ["containerd-stargz-grpc", "stargz-store", "stargz-store-helper", "ctr-remote"];

/// The programs that a package brings go here, those that somebody installs by hand to `/usr/local/bin`.
const BIN: &str = "usr/bin";
const DOC: &str = "usr/share/doc/stargz";
const UNITS: &str = "usr/lib/systemd/system";

/// One file of a package.
#[derive(Debug)]
pub struct Entry {
    /// Where it goes, without the leading slash.
    pub path: String,
    /// Where it comes from, or what it is.
    pub source: Source,
    /// A configuration file: what its owner changed in it stays over upgrades.
    pub config: bool,
}

/// Where a file comes from.
#[derive(Debug)]
pub enum Source {
    /// A file, and its mode.
    File(PathBuf, u32),
    /// What is written here, mode 644.
    Text(String),
    /// A symbolic link with this target.
    Link(&'static str),
}

/// What is installed, without the executables: units, configuration, manual pages, documents.
///
/// # Errors
/// A directory cannot be read, or has a file that this list has no place for.
pub fn shared(repo: &Path) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for file in files_in(&repo.join("dist"))? {
        let name = file_name(&file);
        let (path, config) = match name.rsplit_once('.') {
            Some((_, "service" | "socket" | "target" | "mount")) => (format!("{UNITS}/{name}"), false),
            Some(("config", "toml")) => ("etc/containerd-stargz-grpc/config.toml".into(), true),
            Some((program, "toml")) => (format!("etc/{program}/config.toml"), true),
            Some((_, "json")) => (format!("usr/share/stargz/{name}"), false),
            _ => return Err(format!("{}: no place for it in packages", file.display()).into()),
        };
        let source =
            if path.starts_with(UNITS) { Source::Text(unit(&file)?) } else { Source::File(file, 0o644) };
        entries.push(Entry { path, source, config });
    }
    for file in files_in(&repo.join("man"))? {
        let name = file_name(&file);
        let section = name.rsplit_once('.').map(|(_, section)| section).unwrap_or_default();
        if !section.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(format!("{}: not a manual page", file.display()).into());
        }
        entries.push(plain(format!("usr/share/man/man{section}/{name}"), file.clone()));
    }
    for file in files_in(&repo.join("docs"))? {
        entries.push(plain(format!("{DOC}/docs/{}", file_name(&file)), file.clone()));
    }
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md", "ARCHITECTURE.md"] {
        entries.push(plain(format!("{DOC}/{name}"), repo.join(name)));
    }
    let kubernetes = repo.join("dist/kubernetes");
    for file in if kubernetes.is_dir() { files_below(&kubernetes)? } else { Vec::new() } {
        let below = file.strip_prefix(&kubernetes)?.display().to_string();
        entries.push(plain(format!("usr/share/stargz/kubernetes/{below}"), file.clone()));
    }
    Ok(entries)
}

/// The executable and its names, in a directory.
pub fn executables(job: &Job, dir: &str) -> Vec<Entry> {
    let at = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    let program = Source::File(job.bin.clone(), 0o755);
    let mut entries = vec![Entry { path: at("stargz"), source: program, config: false }];
    entries.extend(LINKS.map(|name| Entry { path: at(name), source: Source::Link("stargz"), config: false }));
    entries
}

/// All that a package of a distribution installs.
pub fn whole(job: &Job) -> Result<Vec<Entry>, Error> {
    let mut entries = executables(job, BIN);
    entries.extend(shared(&job.repo)?);
    Ok(entries)
}

/// Writes `entries` below `root`, with modes and times that depend on nothing else.
pub fn stage(entries: &[Entry], root: &Path, epoch: u64) -> Result<(), Error> {
    make_dir(root)?;
    for entry in entries {
        let path = root.join(&entry.path);
        for dir in path.parent().into_iter().flat_map(Path::ancestors).collect::<Vec<_>>().iter().rev() {
            if dir.starts_with(root) && !dir.exists() {
                make_dir(dir)?;
            }
        }
        match &entry.source {
            Source::File(from, mode) => {
                fs::copy(from, &path).map_err(|error| format!("{}: {error}", from.display()))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
            Source::Text(text) => {
                fs::write(&path, text)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            }
            Source::Link(target) => symlink(target, &path)?,
        }
    }
    settle(root, epoch)
}

/// Gives all below `root` the time `epoch`.
pub fn settle(root: &Path, epoch: u64) -> Result<(), Error> {
    run_tool(
        Command::new("find")
            .arg(root)
            .args(["-exec", "touch", "--no-dereference"])
            .arg(format!("--date=@{epoch}"))
            .args(["{}", "+"]),
    )
}

/// Makes a directory, mode 755 whatever the umask.
pub fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?)
}

/// Compresses the manual pages below `root`, as distributions have them.
pub fn compress_manuals(entries: &mut [Entry], root: &Path) -> Result<(), Error> {
    for entry in entries.iter_mut().filter(|entry| entry.path.starts_with("usr/share/man/")) {
        run_tool(Command::new("gzip").arg("-9n").arg(root.join(&entry.path)))?;
        entry.path += ".gz";
    }
    Ok(())
}

/// A unit names the executable where it is by hand, a package has it elsewhere.
fn unit(file: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(file)?;
    if !text.contains("/usr/local/bin/") {
        return Err(format!("{}: starts nothing in /usr/local/bin", file.display()).into());
    }
    Ok(text.replace("/usr/local/bin/", "/usr/bin/"))
}

fn plain(path: String, file: PathBuf) -> Entry {
    Entry { path, source: Source::File(file, 0o644), config: false }
}

fn file_name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The files in `dir`, by name; not those of directories in it.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = files_in(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    #[test]
    fn every_file_of_the_repository_that_is_to_be_installed_has_a_place() {
        let entries = shared(repo()).unwrap();
        for path in [
            "usr/lib/systemd/system/stargz-snapshotter.service",
            "etc/containerd-stargz-grpc/config.toml",
            "usr/share/man/man8/containerd-stargz-grpc.8",
            "usr/share/stargz/grafana.json",
        ] {
            assert_eq!(entries.iter().filter(|entry| entry.path == path).count(), 1, "{path}");
        }
        assert!(entries.iter().all(|entry| entry.config == entry.path.starts_with("etc/")));
    }

    #[test]
    fn a_stray_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dist")).unwrap();
        fs::write(dir.path().join("dist/notes"), "").unwrap();
        assert!(shared(dir.path()).unwrap_err().to_string().contains("no place"));
    }
}
