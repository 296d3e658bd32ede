//! `stargz completions` and `stargz man`: made of the same definitions as the command line itself.

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::args::{Completions, Man};
use crate::cli::Stargz;

/// Prints a shell's completions.
///
/// # Errors
/// When they cannot be written.
pub fn completions(flags: &Completions) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Stargz::command(), "stargz", &mut script);
    std::io::stdout().lock().write_all(&script).context("cannot print")
}

/// Writes a manual page for each of the tools into a directory.
///
/// # Errors
/// When they cannot be written.
pub fn man(flags: &Man) -> anyhow::Result<()> {
    let mut command = Stargz::command();
    command.build();
    std::fs::create_dir_all(&flags.dir).with_context(|| format!("cannot make {}", flags.dir.display()))?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = format!("stargz-{}", verb.get_name());
        let page = clap_mangen::Man::new(verb.clone()).title(name.to_uppercase());
        let mut text = Vec::new();
        page.render(&mut text).context("cannot make a page")?;
        let path = flags.dir.join(format!("{name}.1"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
