//! What is done with this repository beyond building and testing it: `cargo xtask VERB`.

mod dist;

use std::process::ExitCode;

use clap::Parser;

/// Work on this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
enum Task {
    /// Build the release executable and pack it: tarballs, .deb, .rpm.
    Dist(dist::Flags),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Dist(flags) => dist::run(&flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
