//! How containerd is to mount a snapshot.

use std::path::{Path, PathBuf};

use crate::{
    dirs::Dirs,
    proto::types::Mount,
    store::{Kind, Snapshot},
};

/// The mounts of `snapshot` on the directories `lowers`, the topmost first: one bind mount where one directory is all there
/// is, else one overlay. The order of options is that of containerd's own overlay snapshotter. `userxattr` adds the
/// option of that name.
pub(crate) fn of(snapshot: &Snapshot, lowers: &[PathBuf], dirs: &Dirs, userxattr: bool) -> Vec<Mount> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let writable = snapshot.kind == Kind::Active;
    match lowers {
        [] => return vec![bind(path(&dirs.fs(snapshot.id)), if writable { "rw" } else { "ro" })],
        [only] if !writable => return vec![bind(path(only), "ro")],
        _ => {}
    }
    let mut options = Vec::new();
    if writable {
        options.push(format!("workdir={}", path(&dirs.work(snapshot.id))));
        options.push(format!("upperdir={}", path(&dirs.fs(snapshot.id))));
    }
    let lowers: Vec<_> = lowers.iter().map(|lower| path(lower)).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    if userxattr {
        options.push("userxattr".to_owned());
    }
    vec![Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), target: String::new(), options }]
}

fn bind(source: String, access: &str) -> Mount {
    Mount {
        r#type: "bind".to_owned(),
        source,
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, parents: &[u64], userxattr: bool, expected: &str) {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::open(root.path()).unwrap();
        let snapshot = Snapshot { id: 9, kind, parents: parents.to_vec() };
        let lowers: Vec<_> = parents.iter().map(|id| dirs.fs(*id)).collect();
        let mounts = of(&snapshot, &lowers, &dirs, userxattr);
        let [mount] = mounts.as_slice() else { panic!("{} mounts", mounts.len()) };
        assert_eq!(mount.target, "");
        let shown = format!("{} {} {}", mount.r#type, mount.source, mount.options.join(","));
        assert_eq!(shown.replace(dirs.all().to_str().unwrap(), "S"), expected);
    }

    #[test]
    fn mounts_are_those_of_the_overlay_snapshotter() {
        check(Kind::Active, &[], false, "bind S/9/fs rw,rbind");
        check(Kind::View, &[], false, "bind S/9/fs ro,rbind");
        check(Kind::View, &[4], true, "bind S/4/fs ro,rbind");
        check(Kind::Active, &[4], false, "overlay overlay workdir=S/9/work,upperdir=S/9/fs,lowerdir=S/4/fs");
        check(
            Kind::Active,
            &[4, 2, 1],
            true,
            "overlay overlay workdir=S/9/work,upperdir=S/9/fs,lowerdir=S/4/fs:S/2/fs:S/1/fs,userxattr",
        );
        check(Kind::View, &[4, 2], false, "overlay overlay lowerdir=S/4/fs:S/2/fs");
    }
}
