//! Faults that last longer than a read may take: EIO in time, for what is affected and for nothing else, and all is right
//! once the fault is gone, without anybody doing anything about it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use testkit::registry::{Auth, Fault, Redirect, Rule};
use testkit::wan::{ConnectionFault, ConnectionRule, Link, Outage};

use super::stage::{Mounted, READER_LIMIT, Stage, digest_of, offset_of, side_by_side};
use crate::harness::Scene;
use crate::harness::images::Model;

/// A read ends after two seconds, with one try more than what is silent takes.
const SHORT: &str = "
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 2
max_retries = 3
min_wait_msec = 10
max_wait_msec = 1500
";

const DEADLINE: Duration = Duration::from_secs(2);
/// What a reader may take. The kernel asks a second time for what failed, without its read-ahead; the rest is for a busy
/// machine.
const IN_TIME: Duration = Duration::from_secs(2 * DEADLINE.as_secs() + 2);
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

/// Whose reads fail.
#[derive(Clone, Copy, Debug)]
enum Affected {
    /// Every file that was not read before.
    All,
    /// The files whose content is in the middle layer.
    MiddleLayer,
    /// This file.
    File(&'static str),
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    begin: fn(&Stage),
    affected: Affected,
    /// What makes it end, besides that faults are not begun any more.
    end: fn(&Stage),
}

const fn case(name: &'static str, begin: fn(&Stage), affected: Affected) -> Case {
    Case { name, begin, affected, end: |_| {} }
}

/// The network is away, until it is back.
const fn outage(name: &'static str, begin: fn(&Stage)) -> Case {
    Case {
        end: |stage| stage.line.outage(Outage::Refused, Duration::ZERO),
        ..case(name, begin, Affected::All)
    }
}

fn middle(stage: &Stage, fault: Fault) {
    stage.registry().fault(Rule::new(digest_of(1), fault));
}

fn everywhere(stage: &Stage, fault: Fault) {
    stage.registry().fault(Rule::new("/blobs/", fault));
}

/// Connections that are open are reset, so that what befalls new ones befalls all.
fn new_connections(stage: &Stage, fault: ConnectionFault) {
    stage.line.connection_fault(ConnectionRule::new(fault));
    stage.line.outage(Outage::Refused, Duration::from_millis(100));
    std::thread::sleep(Duration::from_millis(150));
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    // The network.
    outage("connections refused", |s| s.line.outage(Outage::Refused, FOR_EVER)),
    outage("a black hole", |s| s.line.outage(Outage::BlackHole, FOR_EVER)),
    case("silent connections",
        |s| new_connections(s, ConnectionFault::Stall { after: 0, pause: FOR_EVER }), Affected::All),
    case("connections reset at once", |s| new_connections(s, ConnectionFault::ResetAfter(0)), Affected::All),
    case("connections reset after 100 bytes", |s| new_connections(s, ConnectionFault::ResetAfter(100)), Affected::All),
    case("connections closed at once", |s| new_connections(s, ConnectionFault::CloseAfter(0)), Affected::All),
    // One layer's part of the registry, which harms no other layer.
    case("no answer", |s| middle(s, Fault::StallHeaders(FOR_EVER)), Affected::MiddleLayer),
    case("a body that stalls", |s| middle(s, Fault::StallBody { after: 0, pause: FOR_EVER }), Affected::MiddleLayer),
    case("a body that drips", |s| middle(s, Fault::Drip(5)), Affected::MiddleLayer),
    case("resets before the answer", |s| middle(s, Fault::Reset), Affected::MiddleLayer),
    case("resets at the first byte", |s| middle(s, Fault::ResetAfter(0)), Affected::MiddleLayer),
    case("bodies truncated at byte 10", |s| middle(s, Fault::ShortBody(10)), Affected::MiddleLayer),
    case("a wrong Content-Range", |s| middle(s, Fault::WrongContentRange), Affected::MiddleLayer),
    case("404", |s| middle(s, Fault::Status(404)), Affected::MiddleLayer),
    case("416", |s| middle(s, Fault::Status(416)), Affected::MiddleLayer),
    case("wrong bytes", |s| middle(s, Fault::CorruptByte(offset_of(1, "etc/motd") + 12)), Affected::File("etc/motd")),
    case("wrong bytes in a large file",
        |s| middle(s, Fault::CorruptByte(offset_of(1, "opt/data") + 1000)), Affected::File("opt/data")),
    // All of the registry.
    case("503", |s| everywhere(s, Fault::Status(503)), Affected::All),
    case("429 with Retry-After an hour",
        |s| everywhere(s, Fault::RetryAfter { status: 429, seconds: 3600 }), Affected::All),
    Case { end: |s| s.registry().set_auth(Auth::Anonymous), ..case("credentials that are withdrawn",
        |s| s.registry().set_auth(Auth::Basic { user: "user".into(), password: "right".into() }), Affected::All) },
    Case { end: |s| s.registry().set_redirect(None), ..case("addresses that have expired when they are handed out",
        |s| s.registry().set_redirect(Some(Redirect { ttl: Duration::ZERO, uses: 0 })), Affected::All) },
];

#[test]
fn faults_that_last_end_in_eio_in_time_and_leave_no_trace() {
    side_by_side(CASES, |case| case.name, play);
}

/// Reads everything until all is right, which it is soon: a read that joins a fetch of before may fail with it.
#[track_caller]
fn recovered(scene: &Scene, mounted: &Mounted<'_>) -> Duration {
    let gone = Instant::now();
    while gone.elapsed() < DEADLINE {
        let verdict = scene.read_all(&mounted.dir, Model::usual(), READER_LIMIT);
        if verdict.failed_with_eio().is_empty() {
            break;
        }
    }
    mounted.all_right();
    gone.elapsed()
}

fn play(case: &Case, scene: &Scene) {
    const BEFORE: &str = "lib/part-20";
    scene.write("config.toml", SHORT);
    let model = Model::usual();
    let stage = Stage::new(scene, Link::default());
    let mounted = stage.mount();
    scene.reader(&mounted.dir, model, [BEFORE]).end(IN_TIME).all_right();
    // Of two names of one file one is read: the kernel lets one reader after the other try a page that cannot be had.
    let files: Vec<_> = model.names().into_iter().filter(|name| *name != "bin/same-tool").collect();

    (case.begin)(&stage);
    let during = scene.read_at_once(&mounted.dir, model, &files, IN_TIME * 2);
    let failed = during.failed_with_eio();
    let (slowest, log) = (during.took, || scene.log_of(&mounted.dir));
    match case.affected {
        Affected::File(name) => assert_eq!(failed, BTreeSet::from([name]), "{}", log()),
        Affected::MiddleLayer => {
            assert_eq!(failed, BTreeSet::from(["etc/motd", "opt/data", "var/cache/new"]), "{}", log());
        }
        Affected::All => {
            // What came along with the file that was read before can be read, too.
            assert!(!failed.contains(BEFORE), "what is here stays readable");
            let elsewhere = ["bin/tool", "etc/motd", "opt/data", "srv/app"];
            assert!(elsewhere.iter().all(|name| failed.contains(name)), "only {failed:?} failed\n{}", log());
        }
    }
    assert!(slowest < IN_TIME, "a read took {slowest:?}\n{}", log());

    stage.registry().clear_faults();
    stage.line.clear_faults();
    (case.end)(&stage);
    let took = recovered(scene, &mounted);
    eprintln!(
        "{}: EIO for {} files, at most after {slowest:.1?}; then right in {took:.1?}",
        case.name,
        failed.len()
    );
}
