//! A proxy that misbehaves as a script says, in front of any registry that speaks plain HTTP.
//!
//! `faulty-proxy --listen HOST:PORT --to HOST:PORT [--script FILE] [--stats FILE] [--rtt MS] [--mbit N]
//! [--per-connection MBIT]`: the language of scripts is that of `testkit::wan::parse_script`. Prints the address it listens
//! on, and what it has carried when it gets SIGTERM or SIGINT. On SIGUSR1, and at the end, it replaces the file of
//! `--stats` with the same line.
#![allow(clippy::print_stdout)] // this is what the program is for

mod serve;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use testkit::wan::{Link, Proxy, Step, parse_script};

const USAGE: &str = "usage: faulty-proxy --listen HOST:PORT --to HOST:PORT [--script FILE] [--stats FILE] \
                     [--rtt MS] [--mbit N] [--per-connection MBIT]";
const OPTIONS: [&str; 7] = ["--listen", "--to", "--script", "--stats", "--rtt", "--mbit", "--per-connection"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in arguments.chunks(2) {
        match pair {
            [option, value] if OPTIONS.contains(&option.as_str()) => options.insert(option, value),
            _ => return Err(USAGE.into()),
        };
    }
    let get = |option: &str| options.get(option).copied();
    let number = |option: &str| get(option).map_or(Ok(0.0), str::parse::<f64>);
    let link = Link {
        rtt: Duration::try_from_secs_f64(number("--rtt")? / 1e3)?,
        bits_per_second: (number("--mbit")? * 1e6) as u64,
        connection_bits_per_second: (number("--per-connection")? * 1e6) as u64,
    };
    let (listen, to) = (get("--listen").ok_or(USAGE)?, get("--to").ok_or(USAGE)?);
    let steps = match get("--script") {
        Some(file) => {
            parse_script(&std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?)?
        }
        None => Vec::new(),
    };
    let proxy = Proxy::listen_with(listen.parse()?, to.parse()?, link)?;
    let mut outages = Vec::new();
    for step in steps {
        match step {
            Step::Request(rule) => proxy.fault(rule),
            Step::Connection(rule) => proxy.connection_fault(rule),
            Step::Outage { at, kind, time } => outages.push((at, kind, time)),
        }
    }
    println!("listening on {}", proxy.addr());
    serve::until_told(&proxy, get("--stats").map(std::path::Path::new), outages)?;
    println!("{}", serve::line(&proxy));
    Ok(())
}
