//! Whether overlays below a directory need the `userxattr` option.
//!
//! In a user namespace overlayfs may not touch the `trusted.*` extended attributes that it works with; since
//! Linux 5.11 the option makes it use `user.*` ones. Some distributions patched older kernels to do without. What the
//! filesystem below can keep does not matter: also on a tmpfs without such attributes, layers have theirs.

use std::{fs, io, path::Path};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tracing::{debug, warn};

use crate::{Error, error::Chain};

/// What uid_map holds in the initial user namespace, white space aside.
const INITIAL_UID_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// Tells whether overlays below the existing directory `root` need the `userxattr` option, so that their marks are
/// `user.overlay.*`: asked, in a user namespace, by mounting one with it in a scratch directory there. Blocks.
///
/// # Errors
/// `root` cannot be used.
pub fn needed(root: &Path) -> Result<bool, Error> {
    if !in_user_namespace() {
        return Ok(false);
    }
    let scratch = root.join("userxattr-check");
    remove(&scratch)?;
    let tried = try_mount(&scratch);
    if let Err(error) = &tried {
        debug!(error = %Chain(error), "overlayfs does not take the userxattr option");
    }
    remove(&scratch)?;
    Ok(tried.is_ok())
}

fn try_mount(scratch: &Path) -> Result<(), Error> {
    let [one, two, merged] = ["one", "two", "merged"].map(|name| scratch.join(name));
    for dir in [&one, &two, &merged] {
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
    }
    // Without a writable part: not every filesystem can carry one, and layers are shown on all.
    let options = format!("lowerdir={}:{},userxattr", one.display(), two.display());
    let options =
        std::ffi::CString::new(options).map_err(|error| Error::io("mount", &merged)(error.into()))?;
    mount("overlay", &merged, "overlay", MountFlags::RDONLY, options.as_c_str())
        .map_err(|errno| Error::io("mount an overlay at", &merged)(errno.into()))?;
    if let Err(errno) = unmount(&merged, UnmountFlags::DETACH) {
        warn!(path = %merged.display(), error = %errno, "cannot unmount the overlay made to try the userxattr option");
    }
    Ok(())
}

fn remove(scratch: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", scratch)(error)),
        _ => Ok(()),
    }
}

/// A kernel without user namespaces has no such file, and is initial.
fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.split_whitespace().eq(INITIAL_UID_MAP))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Where this very test finds itself in a user namespace.
    const INSIDE: &str = "SNAPSHOTTER_TEST_IN_USER_NAMESPACE";

    #[test]
    fn the_option_is_needed_in_a_user_namespace_only() {
        let dir = tempfile::tempdir().unwrap();
        if std::env::var_os(INSIDE).is_some() {
            assert!(in_user_namespace());
            assert!(needed(dir.path()).unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            return;
        }
        if in_user_namespace() {
            eprintln!("SKIPPED: needs to be in the initial user namespace");
            return;
        }
        assert!(!needed(dir.path()).unwrap());
        let name = "userxattr::tests::the_option_is_needed_in_a_user_namespace_only";
        let inside = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(INSIDE, "1")
            .output();
        match inside {
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
                eprintln!("SKIPPED: user namespaces are not allowed here");
            }
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => eprintln!("SKIPPED: needs unshare: {error}"),
        }
    }
}
