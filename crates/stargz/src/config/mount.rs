//! `[mount]`: how layers are shown.

use ::mount::Backend;
use serde::Deserialize;

/// How layers are shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// The way to show them; the best that works unless one is named.
    pub backend: BackendKey,
    /// Whether containers find `/.stargz-snapshotter` in their root.
    pub state_directory: bool,
    /// SELinux label of what is shown. Empty for the usual one where SELinux enforces; "none" for none.
    pub selinux_context: String,
}

impl Default for Mount {
    fn default() -> Mount {
        Mount { backend: BackendKey::Auto, state_directory: true, selinux_context: String::new() }
    }
}

/// The values of `backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKey {
    /// The best that works.
    Auto,
    /// The kernel mounts image files.
    Erofs,
    /// The kernel mounts them through loop devices.
    ErofsLoop,
    /// A FUSE tree.
    Fuse,
}

impl BackendKey {
    /// The one that is asked for, if one is.
    pub fn forced(self) -> Option<Backend> {
        match self {
            BackendKey::Auto => None,
            BackendKey::Erofs => Some(Backend::Erofs),
            BackendKey::ErofsLoop => Some(Backend::ErofsLoop),
            BackendKey::Fuse => Some(Backend::Fuse),
        }
    }
}
