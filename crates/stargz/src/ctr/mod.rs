//! `ctr-remote`: images of containerd made lazily pullable, and pulled lazily.

mod args;
mod convert;
mod labels;
mod lease;
mod optimize;
mod optimize_args;
mod pull;
mod registry;
mod store;
mod toc_digest;
mod words;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use containerd::{Client, ConnectOptions};
use tokio::signal::unix::{SignalKind, signal};

use args::{CtrRemote, Global, ImageVerb, Verb};

/// Runs what was typed, and tells why it did not succeed.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ctr-remote: {}", crate::whole_text(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<OsString>) -> anyhow::Result<()> {
    if words::is_of_ctr(&args) {
        return Err(forward(&args));
    }
    let CtrRemote { global, verb: Verb::Images(images) } = CtrRemote::parse_from(words::normal(args));
    if global.debug {
        crate::logging::init(crate::logging::LogLevel::Debug, crate::logging::LogFormat::Auto);
    }
    crate::runtime()?.block_on(async {
        let client = connect(&global).await?;
        match images.verb {
            ImageVerb::Convert(flags) => {
                let ended = ended(global.timeout);
                convert::run(&client, *flags, ended).await
            }
            ImageVerb::GetTocDigest(flags) => within(global.timeout, toc_digest::run(&client, &flags)).await,
            ImageVerb::Optimize(flags) => optimize::run(&client, *flags, || ended(global.timeout)).await,
            ImageVerb::Rpull(flags) => {
                let ended = ended(global.timeout);
                pull::run(&client, &flags, ended).await
            }
        }
    })
}

async fn connect(global: &Global) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::default();
    if !global.connect_timeout.is_zero() {
        options.connect = global.connect_timeout;
    }
    Ok(Client::connect(&global.address, &global.namespace, options).await?)
}

/// Ends when the work is to be given up, with the reason.
async fn ended(timeout: Duration) -> anyhow::Error {
    let asked = async {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let late = async {
        if timeout.is_zero() {
            return std::future::pending().await;
        }
        tokio::time::sleep(timeout).await;
    };
    tokio::select! {
        () = asked => anyhow::anyhow!("cancelled"),
        () = late => anyhow::anyhow!("not done within --timeout={timeout:?}"),
    }
}

async fn within(timeout: Duration, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        result = work => result,
        reason = ended(timeout) => Err(reason),
    }
}

/// Becomes `ctr`, or tells why not.
fn forward(args: &[OsString]) -> anyhow::Error {
    let error = std::process::Command::new("ctr").args(&args[1..]).exec();
    let words: Vec<_> = args[1..].iter().map(|arg| arg.to_string_lossy()).collect();
    let what = words.join(" ");
    if error.kind() == std::io::ErrorKind::NotFound {
        return anyhow::anyhow!(
            "{what:?} is a command of ctr, which is not in PATH; it comes with containerd. ctr-remote --help lists what \
             works without it"
        );
    }
    anyhow::Error::new(error).context("cannot start ctr")
}

/// A name as containerd has it must have a host and a path: containerd adds nothing.
fn check_name(name: &str) -> anyhow::Result<()> {
    ::registry::Reference::parse(name)
        .map(drop)
        .with_context(|| format!("{name:?} cannot be the name of an image"))?;
    if !name.contains('/') {
        bail!(
            "{name:?} cannot be the name of an image: containerd wants the host as well, as in docker.io/library/{name}"
        );
    }
    Ok(())
}
