//! The package for Debian and Ubuntu.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::{self, Entry, Source};
use super::{Error, Job, VERSION, run_tool};

/// What is said of the package; [`control`] adds what depends on the executable.
const ABOUT: &str = "Maintainer: Stargz developers <stargz@localhost>
Section: admin
Priority: optional
Recommends: fuse3
Suggests: containerd, podman
Conflicts: stargz-snapshotter
Replaces: stargz-snapshotter
Provides: stargz-snapshotter
Description: containers start before their image is downloaded
 A remote snapshotter for containerd: layers of images in eStargz or zstd:chunked
 format are mounted as soon as their table of contents is here, and file contents
 come when they are read, each checked against its digest. It takes the place of
 stargz-snapshotter, with its names, flags, paths and configuration.
";

/// Enables and starts the snapshotter when it is new. An upgrade reloads units and restarts nothing: whoever runs the
/// node says when. A unit that its administrator disabled or masked stays so.
const POSTINST: &str = r#"#!/bin/sh
set -e
if [ "$1" = configure ] || [ "$1" = abort-upgrade ] || [ "$1" = abort-deconfigure ] || [ "$1" = abort-remove ]; then
  unit=stargz-snapshotter.service
  deb-systemd-helper unmask $unit >/dev/null || true
  if deb-systemd-helper --quiet was-enabled $unit; then
    deb-systemd-helper enable $unit >/dev/null || true
  else
    deb-systemd-helper update-state $unit >/dev/null || true
  fi
  if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    if [ -z "$2" ]; then
      deb-systemd-invoke start $unit >/dev/null || true
    else
      echo "stargz: running daemons are still the former version; systemctl restart $unit when it suits"
    fi
  fi
fi
"#;

const PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  for unit in UNITS; do
    deb-systemd-invoke stop "$unit" >/dev/null || true
  done
fi
"#;

/// What was pulled stays, also over a purge: containers may still use it.
const POSTRM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ]; then
  deb-systemd-helper mask stargz-snapshotter.service >/dev/null || true
fi
if [ "$1" = purge ]; then
  deb-systemd-helper purge stargz-snapshotter.service >/dev/null || true
  deb-systemd-helper unmask stargz-snapshotter.service >/dev/null || true
  for root in /var/lib/containerd-stargz-grpc /var/lib/stargz-store; do
    if [ -d "$root" ]; then
      echo "stargz: $root stays, since containers may use it; remove it when its images are gone"
    fi
  done
fi
if [ -d /run/systemd/system ]; then
  systemctl --system daemon-reload >/dev/null || true
fi
"#;

/// Makes `stargz_VERSION_ARCH.deb`.
pub fn make(job: &Job) -> Result<PathBuf, Error> {
    let root = job.work.join("deb");
    let mut entries = layout::whole(job)?;
    entries.push(Entry {
        path: "usr/share/doc/stargz/copyright".into(),
        source: Source::Text(copyright()),
        config: false,
    });
    layout::stage(&entries, &root, job.epoch)?;
    layout::compress_manuals(&mut entries, &root)?;

    let debian = root.join("DEBIAN");
    layout::make_dir(&debian)?;
    fs::write(debian.join("control"), control(job, &entries, &root)?)?;
    let lines = |paths: Vec<&str>, slash: &str| {
        paths.into_iter().map(|path| format!("{slash}{path}\n")).collect::<String>()
    };
    let conffiles = entries.iter().filter(|entry| entry.config).map(|entry| entry.path.as_str()).collect();
    fs::write(debian.join("conffiles"), lines(conffiles, "/"))?;
    fs::write(debian.join("md5sums"), sums(&entries, &root)?)?;
    for name in ["control", "conffiles", "md5sums"] {
        fs::set_permissions(debian.join(name), fs::Permissions::from_mode(0o644))?;
    }
    let units: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.path.ends_with(".service"))
        .filter_map(|entry| entry.path.rsplit('/').next())
        .collect();
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        fs::write(debian.join(name), script.replace("UNITS", &units.join(" ")))?;
        fs::set_permissions(debian.join(name), fs::Permissions::from_mode(0o755))?;
    }
    layout::settle(&root, job.epoch)?;

    let path = job.out.join(format!("stargz_{VERSION}_{}.deb", job.target.deb));
    run_tool(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .args(if job.quick { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] })
            .arg(&root)
            .arg(&path)
            .env("SOURCE_DATE_EPOCH", job.epoch.to_string()),
    )?;
    Ok(path)
}

fn control(job: &Job, entries: &[Entry], root: &Path) -> Result<String, Error> {
    let mut bytes = 0;
    for entry in entries {
        bytes += fs::symlink_metadata(root.join(&entry.path))?.len();
    }
    let needs = match &job.target.glibc {
        Some(version) => format!("libc6 (>= {version}), libgcc-s1, "),
        None => String::new(),
    };
    Ok(format!(
        "Package: stargz\nVersion: {VERSION}\nArchitecture: {}\nInstalled-Size: {}\n\
         Depends: {needs}init-system-helpers (>= 1.52)\n{ABOUT}",
        job.target.deb,
        bytes.div_ceil(1024),
    ))
}

fn sums(entries: &[Entry], root: &Path) -> Result<String, Error> {
    let mut files: Vec<&str> = entries
        .iter()
        .filter(|entry| !entry.config && !matches!(entry.source, Source::Link(_)))
        .map(|entry| entry.path.as_str())
        .collect();
    files.sort_unstable();
    super::output(Command::new("md5sum").args(files).current_dir(root))
}

/// Debian's machine-readable form (DEP 5).
fn copyright() -> String {
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
     Upstream-Name: Stargz\n\n\
     Files: *\nCopyright: the Stargz authors\nLicense: Apache-2.0\n\n\
     License: Apache-2.0\n On Debian systems, the text of the Apache License, Version 2.0, is in\n \
     /usr/share/common-licenses/Apache-2.0.\n"
        .into()
}
