//! `stargz config`: what a file says, what a file can say, and a file of another program in our words.

pub mod args;
mod migrate;

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use self::args::{Config, Verb};
use crate::cli::DEFAULT_CONFIG;
use crate::config;
use crate::config::reference::{self, When};

/// The annotated file that is installed: every key with its default.
const DEFAULT_FILE: &str = include_str!("../../../../dist/config.toml");

/// Does what was typed.
///
/// # Errors
/// The file cannot be used, or has something to be looked at under `--strict`.
pub fn run(flags: &Config) -> anyhow::Result<()> {
    match &flags.verb {
        Verb::Check(flags) => check(&flags.file, flags.strict),
        Verb::Default => say(DEFAULT_FILE.trim_end()),
        Verb::Explain(flags) => explain(&flags.key),
        Verb::Migrate(flags) => {
            let text = std::fs::read_to_string(&flags.file)
                .with_context(|| format!("cannot read {}", flags.file.display()))?;
            let migrated = migrate::migrate(&text, &flags.file)?;
            for remark in &migrated.remarks {
                eprintln!("{remark}");
            }
            say(migrated.text.trim_end())
        }
    }
}

fn explain(wanted: &str) -> anyhow::Result<()> {
    let below = format!("{wanted}.");
    let mut keys: Vec<_> = reference::KEYS
        .iter()
        .filter(|key| wanted.is_empty() || key.name == wanted || key.name.starts_with(&below))
        .collect();
    if keys.is_empty() {
        let known = reference::find(wanted);
        keys.push(
            known.with_context(|| format!("there is no key {wanted}; stargz config explain lists all"))?,
        );
    }
    for key in keys {
        let facts = match key.when {
            When::Never => "no effect".to_owned(),
            when => {
                let default =
                    if key.default.is_empty() { String::new() } else { format!(", default {}", key.default) };
                let when = if when == When::Live { "reload" } else { "restart" };
                format!("{}{default}, takes effect on {when}", key.kind)
            }
        };
        say(&format!("{} ({facts})\n    {}", key.name, key.text))?;
    }
    Ok(())
}

fn check(file: &Path, strict: bool) -> anyhow::Result<()> {
    let loaded = config::load(file, file == Path::new(DEFAULT_CONFIG))?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    // What only shows when it is used: addresses of mirrors, headers, keychains.
    let keychains = crate::keychain::of_machine(&loaded.config)?;
    registry::Client::new(loaded.config.registry_options(), keychains)
        .with_context(|| format!("the registries in {} cannot be used", file.display()))?;
    let (keys, warnings) = (loaded.values.len(), loaded.warnings.len());
    if strict {
        loaded.strictly(file)?;
    }
    say(&format!("{}: {keys} keys set, {warnings} without effect", file.display()))
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
