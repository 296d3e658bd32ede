//! What the proxies for shells have in common: signals, statistics, outages at their time.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use testkit::wan::{Outage, Proxy};
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM or SIGINT. On SIGUSR1, and at the end, the file gets the line of statistics. Outages come in the order
/// of their times: when, what, how long.
pub fn until_told(
    proxy: &Proxy,
    stats_file: Option<&Path>,
    outages: Vec<(Duration, Outage, Duration)>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(proxy, stats_file, outages))
}

async fn serve(
    proxy: &Proxy,
    stats_file: Option<&Path>,
    mut outages: Vec<(Duration, Outage, Duration)>,
) -> Result<(), Box<dyn Error>> {
    let start = tokio::time::Instant::now();
    outages.sort_by_key(|(at, ..)| *at);
    let mut outages = outages.into_iter().peekable();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut report = signal(SignalKind::user_defined1())?;
    loop {
        let next = outages.peek().map(|(at, ..)| start + *at);
        let end = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            _ = report.recv() => false,
            () = at(next) => {
                if let Some((_, kind, time)) = outages.next() {
                    proxy.outage(kind, time);
                }
                continue;
            }
        };
        if let Some(file) = stats_file {
            write_whole(file, &line(proxy))?;
        }
        if end {
            return Ok(());
        }
    }
}

/// Waits until a time, or for ever.
async fn at(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// The line of statistics.
pub fn line(proxy: &Proxy) -> String {
    let stats = proxy.stats();
    format!(
        "connections={} bytes_up={} bytes_down={} requests={} ranges={} most_connections={}",
        stats.connections,
        stats.bytes_up,
        stats.bytes_down,
        stats.requests,
        stats.ranges,
        stats.most_connections
    )
}

/// Replaces the file in one step, so that a reader never sees half of it.
fn write_whole(file: &Path, line: &str) -> std::io::Result<()> {
    let temporary = file.with_extension("new");
    writeln!(std::fs::File::create(&temporary)?, "{line}")?;
    std::fs::rename(temporary, file)
}
