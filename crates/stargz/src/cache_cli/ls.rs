//! `stargz cache ls`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use layer::cache::{OnDisk, Survey};
use serde::Serialize;

use super::args::Ls;
use super::{human, layers_dir, mounted, say};

/// A layer as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    digest: String,
    blob_size: u64,
    image_size: u64,
    allocated: u64,
    filled_chunks: u64,
    chunks: u64,
    in_use: bool,
    /// Seconds since 1970.
    last_used: u64,
}

pub fn run(root: &Path, flags: &Ls) -> anyhow::Result<()> {
    let Survey { layers, broken } = layer::cache::survey(&layers_dir(root))?;
    for (digest, error) in &broken {
        eprintln!("stargz: warning: {digest} is not usable and will be built again: {error}");
    }
    let mounted = mounted(root)?;
    let rows: Vec<Row> = layers.iter().map(|layer| row(layer, mounted.contains(&layer.digest))).collect();
    if flags.json {
        return say(&serde_json::to_string_pretty(&rows)?);
    }
    if !std::io::stdout().is_terminal() {
        return rows.iter().try_for_each(|row| say(&plain(row)));
    }
    if rows.is_empty() {
        return say("no layers");
    }
    table(&rows, seconds(SystemTime::now())).iter().try_for_each(|line| say(line))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn row(layer: &OnDisk, in_use: bool) -> Row {
    Row {
        digest: layer.digest.to_string(),
        blob_size: layer.blob_size,
        image_size: layer.image_size,
        allocated: layer.taken.bytes,
        filled_chunks: layer.filled,
        chunks: layer.chunks,
        in_use,
        last_used: seconds(layer.used),
    }
}

fn plain(row: &Row) -> String {
    let Row { digest, blob_size, image_size, allocated, filled_chunks, chunks, in_use, last_used } = row;
    let in_use = if *in_use { "yes" } else { "no" };
    format!(
        "{digest}\t{blob_size}\t{image_size}\t{allocated}\t{filled_chunks}\t{chunks}\t{in_use}\t{last_used}"
    )
}

/// Lines of aligned columns, and a last one for all layers together.
fn table(rows: &[Row], now: u64) -> Vec<String> {
    const TITLES: [&str; 7] = ["DIGEST", "BLOB", "IMAGE", "ON DISK", "FILLED", "IN USE", "LAST USED"];
    let mut cells = vec![TITLES.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [
            row.digest.get(..19).unwrap_or(&row.digest).to_owned(),
            human(row.blob_size),
            human(row.image_size),
            human(row.allocated),
            percent(row.filled_chunks, row.chunks),
            if row.in_use { "yes" } else { "no" }.to_owned(),
            ago(now.saturating_sub(row.last_used)),
        ]
    }));
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut lines: Vec<String> = cells
        .iter()
        .map(|row| {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        })
        .collect();
    let total = rows.iter().map(|row| row.allocated).sum();
    let noun = if rows.len() == 1 { "layer" } else { "layers" };
    lines.push(format!("{} {noun}, {} on disk", rows.len(), human(total)));
    lines
}

/// Never 100 % unless everything is there.
fn percent(part: u64, of: u64) -> String {
    let percent = if of == 0 { 100 } else { u128::from(part) * 100 / u128::from(of) };
    format!("{percent} %")
}

fn ago(seconds: u64) -> String {
    let (value, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{value} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let row = |filled_chunks, in_use| Row {
            digest: format!("sha256:{}", "ab".repeat(32)),
            blob_size: 1500,
            image_size: 4 << 30,
            allocated: 10 << 20,
            filled_chunks,
            chunks: 1000,
            in_use,
            last_used: 1000,
        };
        let expected = [
            "DIGEST               BLOB     IMAGE    ON DISK   FILLED  IN USE  LAST USED",
            "sha256:abababababab  1.5 KiB  4.0 GiB  10.0 MiB  99 %    yes     2 min ago",
            "sha256:abababababab  1.5 KiB  4.0 GiB  10.0 MiB  100 %   no      2 min ago",
            "2 layers, 20.0 MiB on disk",
        ];
        assert_eq!(table(&[row(999, true), row(1000, false)], 1130), expected);
        assert_eq!(plain(&row(3, true)).split('\t').count(), 8);
    }

    #[test]
    fn times_have_one_unit() {
        for (seconds, text) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (7199, "119 min ago"),
            (90_000, "25 h ago"),
            (1 << 20, "12 d ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
