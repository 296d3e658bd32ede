//! The package for distributions with RPM.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::layout::{self, Entry, Source};
use super::{Error, Job, VERSION, run_tool};

/// The head of the spec. What the executable needs of the C library is found by rpmbuild itself.
///
/// The scriptlets are those of `%systemd_post` and its kin, written out, since not every machine that has rpmbuild has
/// systemd's macros. Presets decide whether the unit is enabled; an upgrade restarts nothing.
const SPEC: &str = "Name: stargz
Version: @VERSION@
Release: 1
Summary: Containers start before their image is downloaded
License: Apache-2.0
Provides: stargz-snapshotter = %{version}
Conflicts: stargz-snapshotter
Recommends: fuse3
AutoReqProv: yes

%global source_date_epoch_from_changelog 0
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _buildhost reproducible
%global __os_install_post %{nil}
%global debug_package %{nil}
%global _build_id_links none
%global _binary_payload @PAYLOAD@

%description
A remote snapshotter for containerd: layers of images in eStargz or zstd:chunked
format are mounted as soon as their table of contents is here, and file contents
come when they are read, each checked against its digest. It takes the place of
stargz-snapshotter, with its names, flags, paths and configuration.

%install
cp -a @TREE@/. %{buildroot}/

%post
if [ $1 -eq 1 ] && [ -x /usr/bin/systemctl ]; then
  systemctl --no-reload preset stargz-snapshotter.service || :
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi

%preun
if [ $1 -eq 0 ] && [ -x /usr/bin/systemctl ]; then
  systemctl --no-reload disable --now @UNITS@ || :
fi

%postun
if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi

%files
%defattr(-, root, root, -)
";

/// Makes `stargz-VERSION-1.ARCH.rpm`.
pub fn make(job: &Job) -> Result<PathBuf, Error> {
    let tree = job.work.join("rpm-tree");
    let mut entries = layout::whole(job)?;
    entries.push(Entry {
        path: "usr/share/licenses/stargz/LICENSE".into(),
        source: Source::File(job.repo.join("LICENSE"), 0o644),
        config: false,
    });
    layout::stage(&entries, &tree, job.epoch)?;
    layout::compress_manuals(&mut entries, &tree)?;
    layout::settle(&tree, job.epoch)?;

    let units: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.path.ends_with(".service"))
        .filter_map(|entry| entry.path.rsplit('/').next())
        .collect();
    let mut spec = SPEC
        .replace("@VERSION@", VERSION)
        .replace("@PAYLOAD@", if job.quick { "w1.gzdio" } else { "w19.zstdio" })
        .replace("@UNITS@", &units.join(" "))
        .replace("@TREE@", &tree.display().to_string());
    for entry in &entries {
        let mark = match entry.path.as_str() {
            _ if entry.config => "%config(noreplace) ",
            path if path.starts_with("usr/share/licenses/") => "%license ",
            path if path.starts_with("usr/share/doc/") => "%doc ",
            _ => "",
        };
        spec += &format!("{mark}\"/{}\"\n", entry.path);
    }
    for dir in ["usr/share/doc/stargz", "usr/share/licenses/stargz", "usr/share/stargz"] {
        spec += &format!("%dir /{dir}\n");
    }
    let file = job.work.join("stargz.spec");
    fs::write(&file, spec)?;
    let top = job.work.join("rpm");
    run_tool(
        Command::new("rpmbuild")
            .args(["-bb", "--quiet", "--target", job.target.rpm])
            .arg("--define")
            .arg(format!("_topdir {}", top.display()))
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", job.epoch.to_string()),
    )?;
    let name = format!("stargz-{VERSION}-1.{}.rpm", job.target.rpm);
    let path = job.out.join(&name);
    fs::rename(top.join("RPMS").join(job.target.rpm).join(&name), &path)?;
    Ok(path)
}
