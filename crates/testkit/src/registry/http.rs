//! As much of HTTP/1.1 (RFC 9112) as registry clients use, by hand: a library would not let a server lie about lengths.

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::content::Content;

/// Heads and bodies of requests are at most this long.
const LARGEST: usize = 64 << 10;

/// A request, body included.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

/// Reads the next request of a connection; `None` at its end. `buffer` keeps what comes after the request.
pub(super) async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Incoming>> {
    const END: &[u8] = b"\r\n\r\n";
    let head = loop {
        if let Some(at) = buffer.windows(END.len()).position(|window| window == END) {
            break buffer.split_to(at + END.len());
        }
        if buffer.len() > LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the request is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let mut incoming = parse_head(&String::from_utf8_lossy(&head))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/1.1 request"))?;
    let len = incoming.headers.get("content-length").map_or(Ok(0), |len| len.parse::<usize>());
    let len = len.ok().filter(|len| *len <= LARGEST);
    let len =
        len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a length that is not accepted"))?;
    while buffer.len() < len {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    incoming.body = buffer.split_to(len).freeze();
    Ok(Some(incoming))
}

fn parse_head(head: &str) -> Option<Incoming> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Incoming {
        method: method.to_owned(),
        path: decode(path, Plus::Literal),
        query: query.to_owned(),
        headers,
        body: Bytes::new(),
    })
}

/// What `+` means: itself in a path, a space in a query or form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    Literal,
    Space,
}

/// The parameters of a query or form.
pub(super) fn parameters(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name, Plus::Space), decode(value, Plus::Space)))
        .collect()
}

/// Undoes percent-encoding.
fn decode(text: &str, plus: Plus) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped =
            tail.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) if plus == Plus::Space => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer. `body` is what a `GET` gets; `start` is where it begins in the whole blob or manifest.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Content,
    pub(super) start: u64,
}

impl Answer {
    /// An answer without content.
    pub(super) fn empty(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// An error as the distribution specification words it.
    pub(super) fn error(status: u16, code: &str) -> Answer {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": "as the test wanted it" }] });
        Answer { body: body.to_string().into(), ..Answer::empty(status) }
            .header("Content-Type", "application/json")
    }

    pub(super) fn header(mut self, name: &'static str, value: impl ToString) -> Answer {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Status line and headers.
    pub(super) fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Whatever",
    }
}

/// The half-open range of bytes that a `Range` header asks for from `len` bytes (RFC 9110, section 14). `None` when it
/// is to be ignored, as it asks for several ranges or is not understood; an error when it cannot be satisfied.
pub(super) fn range(header: &str, len: u64) -> Option<Result<std::ops::Range<u64>, Unsatisfiable>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = if first.is_empty() {
        len.saturating_sub(last.parse().ok()?)..len
    } else {
        let first: u64 = first.parse().ok()?;
        let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
        if last < first {
            return None;
        }
        first..last.saturating_add(1).min(len)
    };
    Some(if range.start < range.end { Ok(range) } else { Err(Unsatisfiable) })
}

/// A range that lies outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsatisfiable;
