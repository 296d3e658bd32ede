use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::thread;

use super::*;
use crate::Registry;
use crate::registry::Fault;

/// Milliseconds that anything may take on a machine that does other things too: only the lower bounds are sharp.
const LOADED: u128 = 20_000;

/// A server that reads a line with a number and answers with so many bytes, on each connection.
fn source() -> SocketAddr {
    let listener = StdListener::bind(LOOPBACK).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut request = String::new();
                while stream.read_to_string(&mut request).is_err() {}
                let bytes: Vec<u8> = (0..request.parse::<u32>().unwrap()).map(|n| (n >> 8) as u8).collect();
                let _ = stream.write_all(&bytes);
            });
        }
    });
    addr
}

/// Connects, asks for `len` bytes, and returns how long it took until the first and the last byte.
fn fetch(addr: SocketAddr, len: u32) -> (Duration, Duration) {
    let start = std::time::Instant::now();
    let mut stream = StdStream::connect(addr).unwrap();
    write!(stream, "{len}").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = vec![0; 1];
    stream.read_exact(&mut bytes).unwrap();
    let first = start.elapsed();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() == len as usize && bytes.iter().zip(0u32..).all(|(byte, n)| *byte == (n >> 8) as u8));
    (first, start.elapsed())
}

#[test]
fn a_request_on_a_new_connection_takes_two_round_trips() {
    let proxy = wan_proxy(source(), Duration::from_millis(60), 0);
    let (first, _) = fetch(proxy.addr(), 1000);
    assert!((118..LOADED).contains(&first.as_millis()), "{first:?}");
}

#[test]
fn connections_share_the_line() {
    let proxy = wan_proxy(source(), Duration::from_millis(20), 200_000_000);
    let addr = proxy.addr();
    let start = std::time::Instant::now();
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(move || fetch(addr, 2_500_000))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let took = start.elapsed();
    // 10 MB at 25 MB/s, and 40 ms.
    assert!((438..LOADED).contains(&took.as_millis()), "{took:?}");
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while proxy.stats().bytes_down < 10_000_000 {
        assert!(std::time::Instant::now() < deadline, "{:?}", proxy.stats());
        thread::yield_now(); // the counter follows the delivery
    }
    assert_eq!(proxy.stats().connections, 4);
}

#[test]
fn a_refused_target_resets_the_client() {
    let unused = StdListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let proxy = wan_proxy(unused, Duration::ZERO, 0);
    let mut stream = StdStream::connect(proxy.addr()).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// A registry with one blob of 100,000 bytes behind a proxy, and the path of the blob.
fn with_blob(link: Link) -> (Registry, Proxy, String, bytes::Bytes) {
    let registry = Registry::start();
    let bytes = crate::tree::content(2, 100_000);
    let digest = format::Digest::of(&bytes);
    registry.put_blob(digest, bytes.clone());
    let proxy = Proxy::start(registry.addr(), link);
    (registry, proxy, format!("/v2/some/repo/blobs/{digest}"), bytes)
}

/// Head and body of the answer to a `GET` on a new connection, and how reading ended if not well.
fn get(proxy: &Proxy, path: &str, headers: &str) -> (String, Vec<u8>, Option<io::ErrorKind>) {
    let mut stream = StdStream::connect(proxy.addr()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let body = bytes.split_off(end);
    (String::from_utf8(bytes).unwrap(), body, error)
}

#[test]
fn faults_befall_requests_to_any_registry() {
    let (registry, proxy, path, bytes) = with_blob(Link::default());
    let reset = Some(io::ErrorKind::ConnectionReset);
    let mut number = 0;
    let mut with = |fault: Fault, headers: &str| {
        proxy.fault(Rule::new(&path, fault).skip(0).times(1));
        let answer = get(&proxy, &path, headers);
        proxy.clear_faults();
        number += 1;
        answer
    };
    let (head, body, _) = with(Fault::RetryAfter { status: 503, seconds: 7 }, "");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 7\r\n") && body.is_empty());
    assert!(registry.requests().is_empty(), "the proxy answers itself");
    assert_eq!(with(Fault::Reset, "").2, reset);
    let (head, body, error) = with(Fault::ResetAfter(5000), "");
    assert!(error == reset && body.len() <= 5000, "{head} {} {error:?}", body.len());
    let (head, body, error) = with(Fault::ShortBody(777), "");
    assert!(head.contains("Content-Length: 100000\r\n") && error.is_none());
    assert_eq!(body, bytes[..777]);
    let (head, body, _) = with(Fault::IgnoreRange, "Range: bytes=10-19\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body == bytes);
    let (head, body, _) = with(Fault::WrongContentRange, "Range: bytes=10-19\r\n");
    assert!(head.contains("Content-Range: bytes 11-20/100000\r\n") && body == bytes[10..20], "{head}");
    let (_, body, _) = with(Fault::CorruptByte(40_000), "Range: bytes=39999-40001\r\n");
    assert_eq!(body, [bytes[39_999], !bytes[40_000], bytes[40_001]]);
    assert_eq!(get(&proxy, &path, "").1, bytes);

    let pause = Duration::from_millis(80);
    for fault in
        [Fault::StallHeaders(pause), Fault::StallBody { after: 50_000, pause }, Fault::Drip(1_000_000)]
    {
        let start = std::time::Instant::now();
        assert_eq!(with(fault, "").1, bytes);
        assert!(start.elapsed() >= pause);
    }
    let stats = proxy.stats();
    assert_eq!((stats.requests, stats.ranges, stats.connections), (11, 3, 11));
    assert_eq!(proxy.requests()[4].range.as_deref(), Some("bytes=10-19"));
    assert_eq!(proxy.requests()[4].target, path);
}

#[test]
fn rules_count_the_requests_of_a_connection_that_is_kept_alive() {
    let (_registry, proxy, path, bytes) = with_blob(Link::default());
    proxy.fault(Rule::new("/blobs/", Fault::Status(429)).skip(1).times(1));
    proxy.fault(Rule::new("/blobs/", Fault::CorruptByte(0)).skip(2));
    let mut stream = StdStream::connect(proxy.addr()).unwrap();
    let mut ask = |len: usize| {
        write!(stream, "GET {path} HTTP/1.1\r\nRange: bytes=0-{}\r\n\r\n", len - 1).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let status = String::from_utf8(head[9..12].to_vec()).unwrap();
        let mut body = vec![0; if status == "206" { len } else { 0 }];
        stream.read_exact(&mut body).unwrap();
        (status, body)
    };
    assert_eq!(ask(60_000), ("206".to_owned(), bytes[..60_000].to_vec()));
    assert_eq!(ask(60_000).0, "429");
    assert_eq!(ask(2), ("206".to_owned(), vec![!bytes[0], bytes[1]]));
    assert_eq!((proxy.stats().connections, proxy.stats().requests), (1, 3));
}

#[test]
fn parallel_connections_are_faster_than_one_that_has_its_own_limit() {
    let link = Link { connection_bits_per_second: 80_000_000, ..Link::default() };
    let proxy = Proxy::start(source(), link);
    let addr = proxy.addr();
    let start = std::time::Instant::now();
    fetch(addr, 4_000_000);
    let alone = start.elapsed();
    assert!(alone >= Duration::from_millis(380), "4 MB at 10 MB/s took {alone:?}");
    let start = std::time::Instant::now();
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(move || fetch(addr, 1_000_000))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(start.elapsed() < alone * 3 / 4, "{:?} together, {alone:?} alone", start.elapsed());
    assert!((2..=4).contains(&proxy.stats().most_connections), "{:?}", proxy.stats());
}

#[test]
fn one_connection_can_be_slow_or_break() {
    let proxy = Proxy::start(source(), Link::default());
    proxy.connection_fault(ConnectionRule::new(ConnectionFault::Slow(8_000_000)).times(1));
    proxy.connection_fault(ConnectionRule::new(ConnectionFault::ResetAfter(1000)).skip(1).times(1));
    proxy.connection_fault(ConnectionRule::new(ConnectionFault::CloseAfter(1000)).skip(2).times(1));
    let pause = Duration::from_millis(100);
    proxy.connection_fault(ConnectionRule::new(ConnectionFault::Stall { after: 0, pause }).skip(3).times(1));
    let raw = || {
        let mut stream = StdStream::connect(proxy.addr()).unwrap();
        write!(stream, "200000").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
        (bytes.len(), error)
    };
    let start = std::time::Instant::now();
    assert_eq!(raw(), (200_000, None));
    assert!(start.elapsed() >= Duration::from_millis(180), "200 kB at 1 MB/s");
    let (len, error) = raw();
    assert!(len <= 1000 && error == Some(io::ErrorKind::ConnectionReset));
    assert_eq!(raw(), (1000, None));
    let start = std::time::Instant::now();
    assert_eq!(raw(), (200_000, None));
    assert!(start.elapsed() >= pause);
}

#[test]
fn a_network_that_refuses_comes_back_on_the_same_port() {
    let proxy = Proxy::start(source(), Link { rtt: Duration::from_millis(40), ..Link::default() });
    let mut open = StdStream::connect(proxy.addr()).unwrap();
    write!(open, "10").unwrap();
    thread::sleep(Duration::from_millis(100));
    let start = std::time::Instant::now();
    let away = Duration::from_millis(300);
    proxy.outage(Outage::Refused, away);
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let error = loop {
        // The proxy's thread takes a moment to stop listening.
        match StdStream::connect(proxy.addr()) {
            Ok(_) => thread::yield_now(),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(error, io::ErrorKind::ConnectionRefused);
    while StdStream::connect(proxy.addr()).is_err() {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() >= away);
    fetch(proxy.addr(), 1000);
}

#[test]
fn what_a_black_hole_swallows_arrives_afterwards() {
    let (_registry, proxy, path, bytes) = with_blob(Link::default());
    let away = Duration::from_millis(200);
    let start = std::time::Instant::now();
    proxy.outage(Outage::BlackHole, away);
    assert_eq!(get(&proxy, &path, "").1, bytes);
    assert!(start.elapsed() >= away);
    proxy.outage(Outage::BlackHole, Duration::from_secs(3600));
    proxy.outage(Outage::BlackHole, Duration::ZERO);
    assert_eq!(get(&proxy, &path, "").1, bytes);
}
