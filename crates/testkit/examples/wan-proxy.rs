//! A TCP proxy as slow as a long line, for benchmarks in shell.
//!
//! `wan-proxy LISTEN TARGET RTT_MS MBIT [STATS_FILE]`: see `testkit::wan`. Prints the address it listens on, and what it
//! has carried when it gets SIGTERM or SIGINT. On SIGUSR1, and at the end, it replaces STATS_FILE with the same line.
#![allow(clippy::print_stdout)] // this is what the program is for

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::wan::Proxy;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: wan-proxy LISTEN TARGET RTT_MS MBIT [STATS_FILE]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, target, rtt, mbit, stats_file) = match arguments.as_slice() {
        [listen, target, rtt, mbit] => (listen, target, rtt, mbit, None),
        [listen, target, rtt, mbit, file] => (listen, target, rtt, mbit, Some(PathBuf::from(file))),
        _ => return Err(USAGE.into()),
    };
    let rtt = Duration::from_secs_f64(rtt.parse::<f64>()? / 1e3);
    let proxy = Proxy::listen(listen.parse()?, target.parse()?, rtt, (mbit.parse::<f64>()? * 1e6) as u64)?;
    println!("listening on {}", proxy.addr());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_signals(&proxy, stats_file.as_deref()))?;
    println!("{}", line(&proxy));
    Ok(())
}

async fn serve_signals(proxy: &Proxy, stats_file: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut report = signal(SignalKind::user_defined1())?;
    loop {
        let end = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            _ = report.recv() => false,
        };
        if let Some(file) = stats_file {
            write_whole(file, &line(proxy))?;
        }
        if end {
            return Ok(());
        }
    }
}

fn line(proxy: &Proxy) -> String {
    let stats = proxy.stats();
    format!("connections={} bytes_up={} bytes_down={}", stats.connections, stats.bytes_up, stats.bytes_down)
}

/// Replaces the file in one step, so that a reader never sees half of it.
fn write_whole(file: &Path, line: &str) -> std::io::Result<()> {
    let temporary = file.with_extension("new");
    writeln!(std::fs::File::create(&temporary)?, "{line}")?;
    std::fs::rename(temporary, file)
}
