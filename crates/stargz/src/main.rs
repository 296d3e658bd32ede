//! One executable: the snapshotter for containerd, and the tools for people. Which of them it is, its name tells.

mod cache_cli;
mod cli;
mod config;
mod config_cli;
mod control;
mod cri;
mod ctr;
mod daemon;
mod keeping;
mod keychain;
mod labels;
mod lazyfs;
mod logging;
mod memory;
mod mount_image;
mod pins;
mod profile;
mod reload;
mod selinux;
mod shelf;
mod socket;
mod status_cli;
mod store;
mod tools;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use cli::{DEFAULT_CONFIG, Face, Verb};

fn main() -> ExitCode {
    memory::keep_little();
    let args: Vec<OsString> = std::env::args_os().collect();
    let result = match Face::of(args.first().map(OsString::as_os_str)) {
        Face::Snapshotter => {
            snapshotter(cli::SnapshotterProgram::parse_from(cli::with_two_dashes(args)).flags)
        }
        Face::Store => layer_store(cli::StoreProgram::parse_from(cli::with_two_dashes(args)).flags),
        Face::StoreHelper => {
            store::hand_over(cli::StoreHelperProgram::parse_from(cli::with_two_dashes(args)).socket)
        }
        Face::CtrRemote => return ctr::main(args),
        Face::Stargz => match cli::Stargz::parse_from(args).verb {
            Verb::Snapshotter(flags) => snapshotter(flags),
            Verb::Store(flags) => layer_store(flags),
            Verb::Mount(flags) => mount_image::mount(&flags),
            Verb::Umount(flags) => mount_image::umount(&flags),
            Verb::Cache(flags) => cache_cli::run(&flags),
            Verb::Config(flags) => config_cli::run(&flags),
            Verb::Profile(flags) => profile::run(&flags),
            Verb::Status(flags) => status_cli::status(&flags),
            Verb::Top(flags) => status_cli::top(&flags),
            Verb::Debug(flags) => status_cli::debug(&flags),
            Verb::Convert(flags) => tools::convert(&flags),
            Verb::Inspect(flags) => tools::inspect(&flags),
            Verb::Verify(flags) => tools::verify(&flags),
            Verb::Diff(flags) => tools::diff(&flags),
            Verb::Completions(flags) => tools::completions(&flags),
            Verb::Man(flags) => tools::man(&flags),
            Verb::Upgrade(flags) => upgrade::ask(&flags.root),
            Verb::Keeper(flags) => keep(flags),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&whole_text(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes on one line.
fn whole_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = cause.to_string();
        // Some texts end with their cause already.
        if !text.ends_with(&said) {
            text += if text.is_empty() { "" } else { ": " };
            text += &said;
        }
        // Their texts are whole; what is below is the HTTP library's view of the same.
        if cause.is::<registry::Error>() || cause.is::<layer::Error>() {
            break;
        }
    }
    text
}

/// Says what went wrong: as a log line where there is a log, else plainly.
fn report(text: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{text}");
    } else {
        eprintln!("stargz: {text}");
    }
}

fn snapshotter(flags: cli::Snapshotter) -> anyhow::Result<()> {
    logging::init(flags.log_level, flags.log_format);
    let paths = daemon::Paths {
        config_optional: flags.config == std::path::Path::new(DEFAULT_CONFIG),
        address: flags.address,
        strict: flags.strict_config,
        log_level: flags.log_level,
        config: flags.config,
        root: flags.root,
    };
    let runtime = runtime()?;
    let next = runtime.block_on(daemon::run(&paths));
    // What still works on the disk may finish.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match next? {
        Some(program) => {
            Err(program.become_it()).context("cannot go on as the program that is installed now")
        }
        None => Ok(()),
    }
}

fn keep(flags: cli::Keeper) -> anyhow::Result<()> {
    let deadline = std::time::Duration::from_secs(flags.deadline);
    let address = std::path::absolute(&flags.address).context("cannot tell where the socket is")?;
    let failed = || format!("cannot keep sessions at {}", address.display());
    keeper::run(&keeper::ServeOptions { address: address.clone(), deadline }).with_context(failed)
}

fn layer_store(flags: cli::Store) -> anyhow::Result<()> {
    logging::init(flags.log_level, flags.log_format);
    runtime()?.block_on(store::run(&flags))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("stargz").build()
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}
