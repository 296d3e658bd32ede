//! Two tarballs: the executables, flat, as releases of stargz-snapshotter have them, so that what unpacks those into
//! `/usr/local/bin` can go on; and the rest, which is the same for all architectures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::layout::{self, Entry};
use super::{Error, Job, VERSION, output};

/// Makes both, each with a file `NAME.sha256sum` beside it.
pub fn make(job: &Job) -> Result<Vec<PathBuf>, Error> {
    let mut shared = layout::shared(&job.repo)?;
    for entry in &mut shared {
        // By hand, executables are in /usr/local/bin, and what systemd reads is in /etc.
        if let Some(unit) = entry.path.strip_prefix("usr/lib/systemd/system/") {
            let name = unit.to_owned();
            entry.source = layout::Source::File(job.repo.join("dist").join(&name), 0o644);
            entry.path = format!("etc/systemd/system/{name}");
        } else if let Some(rest) = entry.path.strip_prefix("usr/share/") {
            entry.path = format!("usr/local/share/{rest}");
        }
    }
    shared.push(Entry {
        path: "usr/local/share/doc/stargz/LICENSE".into(),
        source: layout::Source::File(job.repo.join("LICENSE"), 0o644),
        config: false,
    });
    let programs = format!("stargz-snapshotter-v{VERSION}-linux-{}", job.target.go);
    let files = format!("stargz-snapshotter-v{VERSION}-files");
    let mut made = Vec::new();
    for (name, entries) in [(programs, layout::executables(job, "")), (files, shared)] {
        let tree = job.work.join(&name);
        layout::stage(&entries, &tree, job.epoch)?;
        made.extend(pack(job, &name, &tree)?);
    }
    Ok(made)
}

fn pack(job: &Job, name: &str, tree: &Path) -> Result<[PathBuf; 2], Error> {
    let name = format!("{name}.tar.gz");
    let path = job.out.join(&name);
    let mut tar = Command::new("tar")
        .args(["--create", "--format=ustar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg("--directory")
        .arg(tree)
        .args(
            fs::read_dir(tree)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<std::collections::BTreeSet<_>, _>>()?,
        )
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("tar does not start: {error}"))?;
    let archive = tar.stdout.take().ok_or("tar has no output")?;
    let gzip = Command::new("gzip")
        .arg(if job.quick { "-1n" } else { "-9n" })
        .stdin(archive)
        .stdout(File::create(&path)?)
        .status()
        .map_err(|error| format!("gzip does not start: {error}"))?;
    let tar = tar.wait()?;
    if !tar.success() || !gzip.success() {
        return Err(format!("{name}: tar: {tar}, gzip: {gzip}").into());
    }
    let sum = job.out.join(format!("{name}.sha256sum"));
    fs::write(&sum, output(Command::new("sha256sum").arg(&name).current_dir(&job.out))?)?;
    Ok([path, sum])
}
