//! Metrics, as Prometheus reads them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use super::status::LAZY;
use crate::harness::images::Model;
use crate::harness::{HASTY, Scene, run, scene, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// The distribution's, for which the parser is packaged.
const PYTHON: &str = "/usr/bin/python3";

/// Reads a page with the parser of Prometheus' own library for Python and prints `name{label="value",…} number` lines.
const PARSER: &str = "
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
for family in parse(open(sys.argv[1]).read()):
    print('FAMILY', family.name, family.type, len(family.samples))
    for s in family.samples:
        print(s.name, ','.join(f'{k}={v}' for k, v in sorted(s.labels.items())), s.value)
";

fn get(scene: &Scene, path: &str) -> String {
    let mut stream = UnixStream::connect(scene.path("metrics.sock")).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

/// The number of a sample whose line begins so.
fn number(page: &str, start: &str) -> f64 {
    let line =
        page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_scrape_is_what_prometheus_reads_and_ends_with_the_mounts() {
    scene(90, |scene| {
        let socket = scene.path("metrics.sock");
        let keys = format!("metrics_network = \"unix\"\nmetrics_address = {socket:?}\n");
        scene.write("config.toml", &format!("{LAZY}{keys}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        Model::usual().assert_at(&daemon.stack());
        let page = get(scene, "/metrics");
        let digest = Model::usual().blobs[0].digest.to_string();
        assert!(number(&page, &format!("stargz_fs_layer_fetched_size_bytes{{digest=\"{digest}\"")) > 0.0);
        assert!(number(&page, "stargz_read_duration_seconds_count{outcome=\"remote\"}") > 0.0);
        assert!(number(&page, &format!("stargz_image_stall_seconds_total{{image=\"{reference}\"}}")) > 0.0);
        assert_eq!(number(&page, &format!("stargz_image_filled_ratio{{image=\"{reference}\"}}")), 1.0);
        assert_eq!(number(&page, "stargz_verification_failures_total "), 0.0);
        assert_eq!(number(&page, "stargz_mounts{backend="), Model::usual().blobs.len() as f64);
        let (fetched, served) =
            (number(&page, "stargz_fetched_bytes_total "), number(&page, "stargz_served_bytes_total "));
        assert!(fetched > 0.0 && served > 0.0 && number(&page, "process_open_fds ") > 3.0);

        // Every name is documented, and every documented name is there.
        let names: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let docs = include_str!("../../../../../docs/metrics.md");
        let documented: BTreeSet<&str> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, documented);
        parse_as_prometheus_does(scene, &page, names.len());

        let cleaned = daemon.remove_all();
        assert!(cleaned, "the snapshots can be removed");
        assert!(wait_until(SOON, || !get(scene, "/metrics").contains(&digest)));
        let page = get(scene, "/metrics");
        assert!(!page.contains(&reference), "{page}");
        assert!(number(&page, "stargz_fetched_bytes_total ") >= fetched, "totals do not fall");
    });
}

fn parse_as_prometheus_does(scene: &Scene, page: &str, families: usize) {
    let file = scene.write("page.txt", page);
    let has_parser = Command::new(PYTHON).args(["-c", "import prometheus_client"]).output();
    if !has_parser.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no python3 with prometheus_client to read metrics with");
        return;
    }
    let said = run(Command::new(PYTHON).args(["-c", PARSER]).arg(file), SOON).succeeded();
    let found = said.stdout.lines().filter(|line| line.starts_with("FAMILY ")).count();
    assert_eq!(found, families, "{}", said.stdout);
    assert!(
        said.stdout
            .lines()
            .filter(|line| line.starts_with("FAMILY "))
            .all(|line| !line.ends_with(" unknown 0"))
    );
}

#[test]
fn the_look_inside_is_json_and_no_prometheus_means_none() {
    scene(60, |scene| {
        let socket = scene.path("metrics.sock");
        let keys =
            format!("no_prometheus = true\nmetrics_address = \"127.0.0.1:1\"\ndebug_address = {socket:?}\n");
        scene.write("config.toml", &format!("{LAZY}{keys}{HASTY}"));
        let _daemon = scene.daemon();
        for path in ["/debug/vars", "/debug/status"] {
            let said: serde_json::Value = serde_json::from_str(&get(scene, path)).unwrap();
            assert!(said.to_string().contains("uptime_seconds"), "{said}");
        }
    });
}
