//! Image tools for people and build jobs: they need neither containerd nor root.

pub mod args;
mod convert;
mod diff;
mod generate;
mod inspect;
mod place;
mod progress;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use registry::{Client, Reference};

use crate::config;

pub use self::convert::run as convert;
pub use self::diff::run as diff;
pub use self::generate::{completions, man};
pub use self::inspect::run as inspect;
pub use self::verify::run as verify;

/// What all the tools need: a runtime for the registry's client, and what the configuration says of registries.
pub struct Workshop {
    runtime: tokio::runtime::Runtime,
    options: registry::Options,
    keychains: Vec<Arc<dyn registry::Keychain>>,
    /// Set when the user wants it to end.
    cancel: Arc<AtomicBool>,
}

impl Workshop {
    fn open(flags: &args::Registries) -> anyhow::Result<Workshop> {
        let optional = flags.config == Path::new(crate::cli::DEFAULT_CONFIG);
        let loaded = config::load(&flags.config, optional)?;
        let mut options = loaded.config.registry_options();
        options.plain_http_hosts.extend(flags.plain_http.iter().cloned());
        let keychains = crate::keychain::of_machine(&loaded.config)?;
        let runtime = crate::runtime().context("cannot start threads")?;
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        runtime.spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            flag.store(true, Ordering::Relaxed);
            // Who asks twice does not want to wait for what is being cleared away.
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(130);
        });
        Ok(Workshop { runtime, options, keychains, cancel })
    }

    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.options.clone(), self.keychains.clone())?)
    }

    fn remote(&self, reference: &Reference) -> anyhow::Result<::convert::remote::RemoteImage> {
        let runtime = self.runtime.handle().clone();
        Ok(::convert::remote::RemoteImage::new(self.client()?, reference.clone(), runtime))
    }
}

/// Prints a line; that nobody reads it any more is no error.
fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Lines of columns that begin below each other.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The beginning of a digest, enough to tell layers apart.
fn short(digest: &format::Digest) -> String {
    digest.to_string().chars().take(19).collect()
}
