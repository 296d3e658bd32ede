use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::thread;

use super::*;

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
