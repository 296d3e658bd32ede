//! The parsers of what comes from outside, for fuzzing.

use std::path::Path;

use bytes::Bytes;

use crate::multipart::{Event, Multipart};

/// Reads a `multipart/byteranges` body that arrives in pieces of `step` bytes.
///
/// # Panics
/// If a part gives more bytes than its range has, or the body ends within one.
pub fn multipart(content_type: &str, body: &[u8], step: usize) {
    let Some(mut parser) = Multipart::new(content_type) else { return };
    let mut pieces = body.chunks(step.max(1));
    let mut left = 0;
    loop {
        match parser.next() {
            Ok(Event::More) => match pieces.next() {
                Some(piece) => parser.push(Bytes::copy_from_slice(piece)),
                None => return,
            },
            Ok(Event::Part(part)) => {
                assert_eq!(left, 0);
                let range = part.range.expect("a part has a range");
                left = range.end - range.start;
                assert!(left > 0 && part.total.is_none_or(|total| range.end <= total));
            }
            Ok(Event::Data(bytes)) => {
                assert!(!bytes.is_empty());
                left = left.checked_sub(bytes.len() as u64).expect("no more than the range");
            }
            Ok(Event::End) => {
                assert_eq!(left, 0);
                return;
            }
            Err(_) => return,
        }
    }
}

/// Reads a `WWW-Authenticate` header.
///
/// # Panics
/// If more comes out than went in.
pub fn challenge(header: &str) {
    for challenge in crate::challenge::parse(header) {
        assert!(!challenge.scheme.is_empty() && challenge.scheme.len() <= header.len());
        assert!(challenge.param("realm").is_none_or(|realm| realm.len() <= header.len()));
    }
}

/// Reads a `hosts.toml`.
///
/// # Panics
/// If an address has more than scheme, host and port.
pub fn hosts_toml(text: &str) {
    let Ok(file) = crate::hosts::hosts_toml::parse(text, Path::new("/certs.d/host")) else { return };
    for address in file.hosts.iter().chain([&file.server]).filter_map(|host| host.address.as_ref()) {
        let base = &address.base;
        assert!(base.path() == "/" && base.query().is_none() && base.username().is_empty());
        assert!(address.path.is_empty() || address.path.starts_with('/'));
    }
}

/// Reads a manifest or index.
pub fn manifest(bytes: &[u8]) {
    crate::manifest::read_any(bytes);
}
