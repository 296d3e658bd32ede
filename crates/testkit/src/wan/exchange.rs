//! As much of HTTP/1.1 as it takes to see requests go up, and to do to their answers what the script says.

use bytes::{Bytes, BytesMut};

use super::connections::Event;
use crate::registry::fault::{Cut, Plan};

/// Heads are at most this long; what is longer is carried without looking.
const LARGEST_HEAD: usize = 64 << 10;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) range: Option<String>,
    /// Whether the connection is to end with the answer.
    pub(super) last: bool,
    /// The head as it came, or as it is to go on.
    pub(super) bytes: Bytes,
}

impl Head {
    fn parse(bytes: Bytes) -> Option<(Head, Body)> {
        let text = std::str::from_utf8(&bytes).ok()?;
        let mut words = text.lines().next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let range = header(text, "range").map(str::to_owned);
        let body = match (header(text, "content-length"), header(text, "transfer-encoding")) {
            (_, Some(_)) => Body::Unknown,
            (None, None) => Body::Known(0),
            (Some(len), None) => Body::Known(len.parse().ok()?),
        };
        let last = header(text, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Some((Head { method, target, range, last, bytes }, body))
    }

    /// The same request without its `Range`.
    pub(super) fn without_range(mut self) -> Head {
        let text = String::from_utf8_lossy(&self.bytes);
        let kept = text.split_inclusive("\r\n").filter(|line| !is_header(line, "range"));
        self.bytes = kept.collect::<String>().into();
        self
    }
}

fn is_header(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().skip(1).find(|line| is_header(line, name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

enum Body {
    Known(u64),
    Unknown,
}

/// What goes up, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Up {
    Request(Head),
    Other(Bytes),
}

/// Finds the requests in what goes up.
#[derive(Debug, Default)]
pub(super) struct Requests {
    buffer: BytesMut,
    body_left: u64,
    opaque: bool,
}

impl Requests {
    /// Takes bytes in and returns what can go on.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Up> {
        self.buffer.extend_from_slice(bytes);
        let mut out = Vec::new();
        while !self.buffer.is_empty() {
            if self.opaque {
                out.push(Up::Other(self.buffer.split().freeze()));
            } else if self.body_left > 0 {
                let len = self.body_left.min(self.buffer.len() as u64) as usize;
                self.body_left -= len as u64;
                out.push(Up::Other(self.buffer.split_to(len).freeze()));
            } else if let Some(at) = find(&self.buffer, END_OF_HEAD) {
                let head = self.buffer.split_to(at + END_OF_HEAD.len()).freeze();
                match Head::parse(head.clone()) {
                    Some((head, body)) => {
                        match body {
                            Body::Known(len) => self.body_left = len,
                            Body::Unknown => self.opaque = true,
                        }
                        out.push(Up::Request(head));
                    }
                    None => {
                        self.opaque = true;
                        out.push(Up::Other(head));
                    }
                }
            } else if self.buffer.len() > LARGEST_HEAD || !may_be_request(&self.buffer) {
                self.opaque = true;
            } else {
                break;
            }
        }
        out
    }

    /// What is held back at the end: half a head.
    pub(super) fn rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

fn may_be_request(bytes: &[u8]) -> bool {
    const METHODS: [&str; 7] = ["GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE ", "OPTIONS "];
    METHODS.iter().any(|method| method.bytes().zip(bytes).all(|(a, b)| a == *b))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// An answer on its way down, and what is to happen to it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    plan: Plan,
    /// The head as far as it is here; `None` behind it, and where nobody looks.
    head: Option<BytesMut>,
    /// Offset of the first byte of the body in the whole.
    start: u64,
    events: Vec<(u64, Event)>,
    body_done: u64,
}

/// What to do with an answer, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Down {
    Send(Bytes),
    Event(Event),
}

impl Answer {
    /// The answer to a request that goes as planned.
    pub(super) fn new(plan: Plan) -> Answer {
        let pauses = plan.pauses.iter().map(|(after, pause)| (*after as u64, Event::Pause(*pause)));
        let cut = plan.cut.map(|(after, cut)| match cut {
            Cut::Reset => (after as u64, Event::Reset),
            Cut::Close => (after as u64, Event::Close),
        });
        let mut events: Vec<_> = pauses.chain(cut).collect();
        events.sort_unstable();
        Answer { plan, head: Some(BytesMut::new()), events, ..Answer::default() }
    }

    /// The rate of the body, in bytes per second, where it has one of its own.
    pub(super) fn rate(&self) -> Option<u64> {
        self.plan.bytes_per_second
    }

    /// Takes bytes of the answer in and returns what is to be done.
    pub(super) fn push(&mut self, bytes: Bytes) -> Vec<Down> {
        let Some(head) = &mut self.head else { return self.body(bytes) };
        head.extend_from_slice(&bytes);
        let mut out = Vec::new();
        let Some(at) = find(head, END_OF_HEAD) else {
            if head.len() > LARGEST_HEAD {
                out.extend(self.head.take().map(|head| Down::Send(head.freeze())));
            }
            return out;
        };
        let mut head = self.head.take().expect("it is there");
        let body = head.split_off(at + END_OF_HEAD.len()).freeze();
        if !self.plan.stall_headers.is_zero() {
            out.push(Down::Event(Event::Pause(self.plan.stall_headers)));
        }
        out.push(Down::Send(self.look_at(head.freeze())));
        out.extend(self.body(body));
        out
    }

    /// What is held back at the end of the connection: half a head.
    pub(super) fn rest(&mut self) -> Bytes {
        self.head.take().unwrap_or_default().freeze()
    }

    /// Learns where the body begins, and lies about it if it should.
    fn look_at(&mut self, head: Bytes) -> Bytes {
        let Ok(text) = std::str::from_utf8(&head) else { return head };
        let Some(told) = header(text, "content-range") else { return head };
        let Some((start, end, len)) = content_range(told) else { return head };
        self.start = start;
        if !self.plan.wrong_content_range {
            return head;
        }
        text.replacen(told, &format!("bytes {}-{}/{len}", start + 1, end + 1), 1).into()
    }

    fn body(&mut self, mut bytes: Bytes) -> Vec<Down> {
        let mut out = Vec::new();
        loop {
            while let Some((after, event)) = self.events.first().copied()
                && after <= self.body_done
            {
                self.events.remove(0);
                out.push(Down::Event(event));
            }
            if bytes.is_empty() {
                return out;
            }
            let until = self.events.first().map_or(u64::MAX, |(after, _)| *after);
            let len = (until - self.body_done).min(bytes.len() as u64) as usize;
            let piece = self.corrupted(bytes.split_to(len));
            self.body_done += len as u64;
            out.push(Down::Send(piece));
        }
    }

    fn corrupted(&self, piece: Bytes) -> Bytes {
        let at = |offset: &u64| offset.checked_sub(self.start + self.body_done).map(|at| at as usize);
        let hits: Vec<usize> =
            self.plan.corrupt.iter().filter_map(at).filter(|at| *at < piece.len()).collect();
        if hits.is_empty() {
            return piece;
        }
        let mut piece = BytesMut::from(piece);
        hits.into_iter().for_each(|at| piece[at] = !piece[at]);
        piece.freeze()
    }
}

/// `bytes FIRST-LAST/LEN`.
fn content_range(value: &str) -> Option<(u64, u64, &str)> {
    let (range, len) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, len))
}

/// The answer that the proxy gives itself.
pub(super) fn own_answer(status: u16, retry_after: Option<u64>) -> Bytes {
    let retry = retry_after.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
    format!("HTTP/1.1 {status} As The Test Wanted It\r\n{retry}Content-Length: 0\r\n\r\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_however_they_come() {
        let text = b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 3\r\n\r\nxyzHEAD /c HTTP/1.1\r\n\r\n";
        for size in [1, 7, text.len()] {
            let mut requests = Requests::default();
            let ups: Vec<Up> = text.chunks(size).flat_map(|piece| requests.push(piece)).collect();
            let heads: Vec<_> = ups
                .iter()
                .filter_map(|up| if let Up::Request(head) = up { Some(head) } else { None })
                .collect();
            let told: Vec<_> =
                heads.iter().map(|head| (head.method.as_str(), head.target.as_str())).collect();
            assert_eq!(told, [("GET", "/a"), ("POST", "/b"), ("HEAD", "/c")]);
            assert_eq!(heads[0].range.as_deref(), Some("bytes=0-1"));
            assert_eq!(heads[0].clone().without_range().bytes, "GET /a HTTP/1.1\r\n\r\n");
            let bodies: Vec<u8> = ups
                .iter()
                .filter_map(|up| if let Up::Other(bytes) = up { Some(bytes.to_vec()) } else { None })
                .flatten()
                .collect();
            assert_eq!(bodies, b"xyz");
            assert!(requests.rest().is_empty());
        }
    }

    #[test]
    fn what_is_no_request_is_carried_at_once() {
        let mut requests = Requests::default();
        assert_eq!(requests.push(b"\x16\x03\x01"), [Up::Other(Bytes::from_static(b"\x16\x03\x01"))]);
        assert_eq!(requests.push(b"GET / HTTP/1.1\r\n\r\n").len(), 1);
        let mut half = Requests::default();
        assert!(half.push(b"GET /").is_empty());
        assert_eq!(half.rest(), "GET /");
    }
}
