//! Which SELinux label layers get.
//!
//! Files of a layer carry no labels of their own that a host could trust. Without one they have that of any FUSE or EROFS
//! file, which confined programs may not read.

use std::fs;
use std::io::Write as _;
use std::path::Path;

/// What distributions' policies give to the snapshots of containerd.
const USUAL: &str = "system_u:object_r:container_ro_file_t:s0";
/// Turns labels off.
const NONE: &str = "none";
/// Where the kernel shows SELinux.
const SELINUX_FS: &str = "/sys/fs/selinux";

/// The label for layers: what the configuration names, else the usual one if SELinux enforces and its policy has that.
pub fn context(configured: &str) -> Option<String> {
    context_on(Path::new(SELINUX_FS), configured)
}

fn context_on(selinux: &Path, configured: &str) -> Option<String> {
    match configured {
        NONE => None,
        "" => (enforces(selinux) && knows(selinux, USUAL)).then(|| USUAL.to_owned()),
        label => Some(label.to_owned()),
    }
}

fn enforces(selinux: &Path) -> bool {
    fs::read_to_string(selinux.join("enforce")).is_ok_and(|enforce| enforce.trim() == "1")
}

/// The kernel takes only labels that its policy has.
fn knows(selinux: &Path, label: &str) -> bool {
    let file = fs::OpenOptions::new().write(true).open(selinux.join("context"));
    let known = file.and_then(|mut file| file.write_all(&[label.as_bytes(), &[0]].concat()));
    if let Err(error) = &known {
        tracing::warn!(label, %error, "the SELinux policy does not have the usual label of layers: set mount.selinux_context");
    }
    known.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_a_label_where_selinux_enforces() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(context_on(dir.path(), ""), None, "no SELinux");
        fs::write(dir.path().join("context"), "").unwrap();
        for (enforce, label) in [("0", None), ("1", Some(USUAL))] {
            fs::write(dir.path().join("enforce"), enforce).unwrap();
            assert_eq!(context_on(dir.path(), "").as_deref(), label);
        }
        assert_eq!(context_on(dir.path(), "none"), None);
        assert_eq!(context_on(dir.path(), "a:b:c:s0").as_deref(), Some("a:b:c:s0"));
        fs::remove_file(dir.path().join("context")).unwrap();
        assert_eq!(context_on(dir.path(), ""), None, "a policy that does not know it");
    }
}
