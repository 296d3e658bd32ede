//! What the daemon has kept while it is away: its FUSE sessions and its listening socket.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use keeper::{Inherited, Keeping};

use crate::config::FuseManager;

/// Name of the session of image files.
pub const IMAGES: &str = "images";
/// Name of the session of trees.
pub const TREES: &str = "trees";
/// Name of the listening socket of the snapshots service.
pub const SNAPSHOTS: &str = "snapshots";

/// Finds or starts the keeper of a root, which this process has to own. `None` if there is to be none, or none can be
/// had, which is told in the log: containers depend on it only when this process ends.
///
/// Blocks for up to some seconds.
///
/// # Errors
/// The configured address is not usable.
pub fn open(
    config: &FuseManager,
    root: &Path,
    inherited: &mut Inherited,
) -> anyhow::Result<Option<Arc<Keeping>>> {
    let stored = std::mem::take(&mut inherited.kept);
    if !config.enabled() {
        keeper::let_go(stored);
        return Ok(None);
    }
    let options = config.options(root);
    if !options.address.is_absolute() {
        bail!("fuse_manager.address is {}, which is no absolute path", options.address.display());
    }
    let own = keeper::Options::new(&options.address).program;
    let opened = if options.program == own {
        Keeping::open(options, stored)
    } else {
        let fallback = keeper::Options { program: own, ..options.clone() };
        Keeping::open_or(options, fallback, stored)
    };
    match opened {
        Ok(keeping) => Ok(Some(Arc::new(keeping))),
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::error!(
                "there is no keeper: when this daemon ends, containers get read errors for what is not complete: {error:#}"
            );
            Ok(None)
        }
    }
}
