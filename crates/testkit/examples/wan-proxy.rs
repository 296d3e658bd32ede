//! A TCP proxy as slow as a long line, for benchmarks in shell.
//!
//! `wan-proxy LISTEN TARGET RTT_MS MBIT [STATS_FILE] [--per-connection MBIT]`: see `testkit::wan`. Prints the address it
//! listens on, and what it has carried when it gets SIGTERM or SIGINT. On SIGUSR1, and at the end, it replaces STATS_FILE
//! with the same line. With `--per-connection`, each connection has a limit of its own besides.
#![allow(clippy::print_stdout)] // this is what the program is for

mod serve;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use testkit::wan::{Link, Proxy};

const USAGE: &str = "usage: wan-proxy LISTEN TARGET RTT_MS MBIT [STATS_FILE] [--per-connection MBIT]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let per_connection = match arguments.iter().position(|argument| argument == "--per-connection") {
        Some(at) if at + 1 < arguments.len() => arguments.drain(at..at + 2).nth(1),
        Some(_) => return Err(USAGE.into()),
        None => None,
    };
    let (listen, target, rtt, mbit, stats_file) = match arguments.as_slice() {
        [listen, target, rtt, mbit] => (listen, target, rtt, mbit, None),
        [listen, target, rtt, mbit, file] => (listen, target, rtt, mbit, Some(PathBuf::from(file))),
        _ => return Err(USAGE.into()),
    };
    let bits = |mbit: &str| mbit.parse::<f64>().map(|mbit| (mbit * 1e6) as u64);
    let link = Link {
        rtt: Duration::from_secs_f64(rtt.parse::<f64>()? / 1e3),
        bits_per_second: bits(mbit)?,
        connection_bits_per_second: per_connection.as_deref().map_or(Ok(0), bits)?,
    };
    let proxy = Proxy::listen_with(listen.parse()?, target.parse()?, link)?;
    println!("listening on {}", proxy.addr());
    serve::until_told(&proxy, stats_file.as_deref(), Vec::new())?;
    println!("{}", serve::line(&proxy));
    Ok(())
}
