//! Tells the executable which revision it is built from.

// What a build script tells cargo, it prints.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;

fn main() {
    let git = Path::new("../../.git");
    for name in ["HEAD", "logs/HEAD"] {
        if git.join(name).exists() {
            println!("cargo::rerun-if-changed=../../.git/{name}");
        }
    }
    println!("cargo::rerun-if-env-changed=STARGZ_REVISION");
    // A tarball has no history; whoever packages it may say.
    let revision =
        std::env::var("STARGZ_REVISION").ok().or_else(head).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=STARGZ_VERSION={} {revision}", env!("CARGO_PKG_VERSION"));
}

fn head() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
