use super::*;
use crate::mounts::mounts_below;
use crate::overlay::Upper;

/// The deepest that the kernel stacks: an overlay on an overlay.
#[test]
fn a_mount_that_carries_no_overlay_is_told() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: needs root");
    }
    let place = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let path = place.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let scratch = Scratch::new(place.path()).unwrap();
    let bottom = dir("bottom");
    fs::write(bottom.join(FILE), PATTERN).unwrap();
    assert!(check(&scratch, &bottom, false).is_ok());
    let mut at = bottom;
    for level in 0..2 {
        let upper = Upper { dir: dir(&format!("upper{level}")), work: dir(&format!("work{level}")) };
        let target = dir(&format!("level{level}"));
        let options = OverlayOptions { upper: Some(upper), user_xattrs: false };
        mount_overlay(&[at], &target, &options).unwrap();
        at = target;
    }
    let reason = check(&scratch, &at, false).unwrap_err();
    assert!(matches!(reason, Reason::NotStackable(_)), "{reason}");
    assert!(matches!(check(&scratch, &scratch.empty(), false), Err(Reason::WrongContent)));
    for mount in mounts_below(place.path()).unwrap().iter().rev() {
        unmount(&mount.mount_point, UnmountMode::Lazy).unwrap();
    }
}
