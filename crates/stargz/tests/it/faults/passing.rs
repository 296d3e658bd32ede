//! Faults that pass, or that another request gets around: the reader never sees them.

use std::time::Duration;

use testkit::registry::{Auth, Fault, Redirect, Rule};
use testkit::wan::{ConnectionFault, ConnectionRule, Link, Outage};

use super::stage::{Stage, asked_again, digest_of, offset_of, side_by_side};
use crate::harness::{Scene, scene};

/// Time enough for all that passes. What is silent is given up after a second.
const PATIENT: &str = "
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 20
max_retries = 50
min_wait_msec = 10
max_wait_msec = 1500
";

/// The defaults, but for the deadline: what a read does within it is not for the number of retries to say.
const USUAL: &str = "
[blob]
fetching_timeout_sec = 20
";

const KIB: usize = 1 << 10;
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);
const NO_LIMIT: Link = Link { rtt: Duration::ZERO, bits_per_second: 0, connection_bits_per_second: 0 };

/// How to see that the fault was met.
#[derive(Clone, Copy, Debug)]
enum Met {
    /// A request was answered with this status; 0 is a reset instead of an answer.
    Status(u16),
    /// Something was asked for again.
    AskedAgain,
    /// Reading took at least so long.
    Took(Duration),
    /// Several ranges were asked for at once, the answer was one, and that was remembered.
    OneRangeRemembered,
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    config: &'static str,
    link: Link,
    /// What is arranged before the image is mounted.
    first: fn(&Stage),
    /// What goes wrong after that.
    then: fn(&Stage),
    met: Met,
}

/// A case where something goes wrong after the image is mounted.
const fn case(name: &'static str, then: fn(&Stage), met: Met) -> Case {
    Case { name, config: PATIENT, link: NO_LIMIT, first: |_| {}, then, met }
}

/// A case where nothing goes wrong but what `first` arranges.
const fn from_the_start(name: &'static str, first: fn(&Stage), met: Met) -> Case {
    Case { first, ..case(name, |_| {}, met) }
}

const fn over(link: Link, name: &'static str, met: Met) -> Case {
    Case { link, ..case(name, |_| {}, met) }
}

fn blobs(stage: &Stage, times: u64, fault: Fault) {
    stage.registry().fault(Rule::new("/blobs/", fault).times(times));
}

/// Befalls the first requests for contents of a layer: those for the first of its files in the order of names, which is
/// the order in which they are read.
fn first_of(stage: &Stage, layer: usize, times: u64, fault: Fault) {
    stage.registry().fault(Rule::new(digest_of(layer), fault).times(times));
}

fn connections(stage: &Stage, rule: ConnectionRule) {
    stage.line.connection_fault(rule);
}

fn login(stage: &Stage) {
    let (host, credentials) = (stage.addr(), "dXNlcjpyaWdodA==");
    let text = format!(r#"{{"auths":{{"{host}":{{"auth":"{credentials}"}}}}}}"#);
    stage.scene.write("docker/config.json", &text);
    let credentials = Some(("user".to_owned(), "right".to_owned()));
    stage.registry().set_auth(Auth::Bearer { credentials, ttl: FOR_EVER });
}

fn redirects(stage: &Stage, uses: u32) {
    stage.registry().set_redirect(Some(Redirect { ttl: FOR_EVER, uses }));
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    // The line.
    over(Link { rtt: millis(120), ..NO_LIMIT }, "latency", Met::Took(millis(240))),
    over(Link { bits_per_second: 8_000_000, ..NO_LIMIT }, "low bandwidth", Met::Took(millis(1500))),
    over(Link { connection_bits_per_second: 4_000_000, rtt: millis(20), ..NO_LIMIT }, "low bandwidth of each connection",
        Met::Took(millis(1000))),
    case("an answer that drips", |s| blobs(s, 4, Fault::Drip(300_000)), Met::Took(millis(700))),
    from_the_start("connections that drip",
        |s| connections(s, ConnectionRule::new(ConnectionFault::Slow(2_000_000)).every(2)), Met::Took(millis(700))),
    // Connections that end.
    case("resets before the answer", |s| blobs(s, 3, Fault::Reset), Met::Status(0)),
    case("resets at the first byte", |s| blobs(s, 3, Fault::ResetAfter(0)), Met::AskedAgain),
    case("resets at byte 20,000", |s| blobs(s, 3, Fault::ResetAfter(20_000)), Met::AskedAgain),
    case("each answer reset after 200 KiB",
        |s| s.line.fault(Rule::new("/blobs/", Fault::ResetAfter(200 * KIB))), Met::AskedAgain),
    from_the_start("each connection reset after 300 KiB",
        |s| connections(s, ConnectionRule::new(ConnectionFault::ResetAfter(300 << 10))), Met::AskedAgain),
    from_the_start("each connection closed after 300 KiB",
        |s| connections(s, ConnectionRule::new(ConnectionFault::CloseAfter(300 << 10))), Met::AskedAgain),
    case("bodies truncated at once", |s| blobs(s, 3, Fault::ShortBody(0)), Met::AskedAgain),
    case("bodies truncated at byte 30,001", |s| blobs(s, 3, Fault::ShortBody(30_001)), Met::AskedAgain),
    case("each body truncated after 200 KiB", |s| blobs(s, u64::MAX, Fault::ShortBody(200 * KIB)), Met::AskedAgain),
    // Silence.
    case("no answer", |s| blobs(s, 2, Fault::StallHeaders(FOR_EVER)), Met::AskedAgain),
    case("a body that stalls", |s| blobs(s, 2, Fault::StallBody { after: 10_000, pause: FOR_EVER }), Met::AskedAgain),
    case("a body that stalls and goes on", |s| blobs(s, 3, Fault::StallBody { after: 10_000, pause: millis(600) }),
        Met::Took(millis(600))),
    from_the_start("connections that go silent for ever", |s| {
        let silent = ConnectionFault::Stall { after: 300 << 10, pause: FOR_EVER };
        connections(s, ConnectionRule::new(silent).times(4));
    }, Met::AskedAgain),
    // Servers that are unwell.
    case("408", |s| blobs(s, 2, Fault::Status(408)), Met::Status(408)),
    case("429", |s| blobs(s, 2, Fault::Status(429)), Met::Status(429)),
    case("429 with Retry-After", |s| blobs(s, 1, Fault::RetryAfter { status: 429, seconds: 1 }), Met::Took(millis(900))),
    case("503 with Retry-After", |s| blobs(s, 1, Fault::RetryAfter { status: 503, seconds: 1 }), Met::Took(millis(900))),
    case("500", |s| blobs(s, 2, Fault::Status(500)), Met::Status(500)),
    case("502", |s| blobs(s, 2, Fault::Status(502)), Met::Status(502)),
    case("503", |s| blobs(s, 3, Fault::Status(503)), Met::Status(503)),
    case("504", |s| blobs(s, 2, Fault::Status(504)), Met::Status(504)),
    // What one may do for a time.
    Case { first: login, ..case("an expired token", |s| {
        s.registry().fault(Rule::new("/blobs/", Fault::ExpireTokens).times(1));
        s.registry().fault(Rule::new("/blobs/", Fault::ExpireTokens).skip(3).times(1));
    }, Met::Status(401)) },
    Case { first: |s| redirects(s, 0), ..case("an expired address", |s| {
        s.registry().fault(Rule::new("/cdn/", Fault::ExpireRedirects).times(1));
        s.registry().fault(Rule::new("/cdn/", Fault::ExpireRedirects).skip(3).times(1));
    }, Met::Status(403)) },
    Case { first: |s| redirects(s, 2), ..case("addresses that are good for two requests", |_| {}, Met::Status(403)) },
    Case { first: |s| redirects(s, 0), ..case("a store behind the redirect that is unwell", |s| {
        for fault in [Fault::Status(500), Fault::ResetAfter(10_000), Fault::ShortBody(9), Fault::Status(403)] {
            s.registry().fault(Rule::new("/cdn/", fault).times(1));
        }
    }, Met::AskedAgain) },
    // Answers that are not what they should be.
    case("a wrong byte once", |s| first_of(s, 1, 1, Fault::CorruptByte(offset_of(1, "etc/motd") + 12)), Met::AskedAgain),
    case("a wrong byte of a large file once",
        |s| first_of(s, 0, 1, Fault::CorruptByte(offset_of(0, "bin/same-tool") + 1000)), Met::AskedAgain),
    case("a wrong Content-Range once", |s| first_of(s, 1, 1, Fault::WrongContentRange), Met::AskedAgain),
    case("416 once", |s| first_of(s, 1, 1, Fault::Status(416)), Met::Status(416)),
    case("200 instead of 206 once", |s| blobs(s, 1, Fault::IgnoreRange), Met::Status(200)),
    case("200 instead of 206 always", |s| blobs(s, u64::MAX, Fault::IgnoreRange), Met::Status(200)),
    case("one range where several are asked for", |s| blobs(s, u64::MAX, Fault::OneRange), Met::OneRangeRemembered),
    // The network is gone for a time.
    case("connections refused for 2 s", |s| s.line.outage(Outage::Refused, millis(2000)), Met::Took(millis(1800))),
    Case { config: USUAL, ..case("connections refused for 5 s, with the usual retries",
        |s| s.line.outage(Outage::Refused, millis(5000)), Met::Took(millis(4800))) },
    case("a black hole for 3 s", |s| s.line.outage(Outage::BlackHole, millis(3000)), Met::Took(millis(2800))),
    Case { config: USUAL, ..case("a black hole for 3 s, with the usual retries",
        |s| s.line.outage(Outage::BlackHole, millis(3000)), Met::Took(millis(2800))) },
];

#[test]
fn faults_that_pass_are_never_seen() {
    side_by_side(CASES, |case| case.name, play);
}

fn play(case: &Case, scene: &Scene) {
    scene.write("config.toml", case.config);
    let stage = Stage::new(scene, case.link);
    (case.first)(&stage);
    let mounted = stage.mount();
    (case.then)(&stage);
    let took = mounted.all_right();
    let requests = stage.registry().requests();
    eprintln!("{}: {took:.1?}, {} requests", case.name, requests.len());
    match case.met {
        Met::Status(status) => {
            assert!(requests.iter().any(|request| request.status == status), "it was met: {requests:#?}");
        }
        Met::AskedAgain => assert!(asked_again(&requests), "it was met: {requests:#?}"),
        Met::Took(least) => assert!(took >= least, "it was met, in {took:?}"),
        Met::OneRangeRemembered => {
            let several = |range: &str| range.contains(',');
            let asked = requests.iter().filter(|request| request.range().is_some_and(several)).count();
            assert!((1..=3).contains(&asked), "at most one for each layer under way: {requests:#?}");
        }
    }
}

/// The proof that [`asked_again`] proves something.
#[test]
fn without_a_fault_nothing_is_asked_for_twice() {
    scene(20, |scene| {
        let stage = Stage::new(scene, NO_LIMIT);
        stage.mount().all_right();
        let requests = stage.registry().requests();
        assert!(!asked_again(&requests), "{requests:#?}");
    });
}
