//! `multipart/byteranges` bodies (RFC 9110, section 14.6; framing of RFC 2046, section 5.1), read as they
//! arrive.
//!
//! The length of each part is known from its `Content-Range`, so contents are passed through by count and never
//! searched for the boundary. Everything between contents is lines of bounded length. No clock and no I/O here:
//! pieces go in, [`Event`]s come out.

use bytes::{Buf as _, Bytes};

use crate::range::ContentRange;

/// Longest boundary that the grammar allows, in bytes.
const MAX_BOUNDARY: usize = 70;
/// Most bytes that may precede the first part, and that one part's header may have.
const MAX_HEAD: usize = 8 << 10;

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing, until another piece is pushed.
    More,
    /// A part begins. Its range is not empty.
    Part(ContentRange),
    /// The next bytes of that part.
    Data(Bytes),
    /// The last part was complete, and the body says so.
    End,
}

/// A parser of one body.
#[derive(Debug)]
pub(crate) struct Multipart {
    boundary: Vec<u8>,
    input: Bytes,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// Bytes of lines since the last content.
    head: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Before the first boundary: text that nobody reads.
    Preamble,
    Header(Option<ContentRange>),
    /// So many bytes of the part are to come.
    Content(u64),
    /// The line end that belongs to the boundary after a part.
    AfterContent,
    Boundary,
    End,
}

impl Multipart {
    /// A parser for a body with this `Content-Type`; none if that is not one of the kind.
    pub fn new(content_type: &str) -> Option<Multipart> {
        let boundary = boundary(content_type)?;
        Some(Multipart { boundary, input: Bytes::new(), line: Vec::new(), head: 0, state: State::Preamble })
    }

    /// Adds what arrived. Only after [`Event::More`].
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = piece;
    }

    /// What comes next.
    ///
    /// # Errors
    /// What is wrong with the body. It cannot be read on then.
    pub fn next(&mut self) -> Result<Event, &'static str> {
        loop {
            match &mut self.state {
                State::End => return Ok(Event::End),
                State::Content(left) => {
                    if *left == 0 {
                        self.head = 0;
                        self.state = State::AfterContent;
                        continue;
                    }
                    if self.input.is_empty() {
                        return Ok(Event::More);
                    }
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    *left -= len as u64;
                    return Ok(Event::Data(self.input.split_to(len)));
                }
                _ => {}
            }
            let complete = self.take_line()?;
            if !complete && !self.closes() {
                return Ok(Event::More);
            }
            let mut line = std::mem::take(&mut self.line);
            while line.last().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
                line.pop();
            }
            if let Some(event) = self.accept(&line)? {
                return Ok(event);
            }
        }
    }

    /// Moves input to `line` up to the end of the line; whether that has arrived.
    fn take_line(&mut self) -> Result<bool, &'static str> {
        let end = self.input.iter().position(|&b| b == b'\n');
        let len = end.map_or(self.input.len(), |end| end + 1);
        self.head += len;
        if self.head > MAX_HEAD {
            return Err("too much lies between the parts");
        }
        self.line.extend_from_slice(&self.input[..len]);
        self.input.advance(len);
        Ok(end.is_some())
    }

    /// Whether an unfinished line is the closing boundary already: not everybody ends that line.
    fn closes(&self) -> bool {
        matches!(self.state, State::Boundary) && self.delimiter(&self.line) == Some(Delimiter::Close)
    }

    /// Takes one line, without its end.
    fn accept(&mut self, line: &[u8]) -> Result<Option<Event>, &'static str> {
        match &mut self.state {
            State::Preamble => match self.delimiter(line) {
                Some(Delimiter::Part) => self.state = State::Header(None),
                Some(Delimiter::Close) => return Err("it has no parts"),
                None => {}
            },
            State::Boundary => match self.delimiter(line) {
                Some(Delimiter::Part) => self.state = State::Header(None),
                Some(Delimiter::Close) => self.state = State::End,
                None => return Err("a part is longer than its Content-Range"),
            },
            State::AfterContent if line.is_empty() => self.state = State::Boundary,
            State::AfterContent => return Err("a part is longer than its Content-Range"),
            State::Header(found) if line.is_empty() => {
                let found = found.take().ok_or("a part has no Content-Range")?;
                let range = found.range.clone().ok_or("a part's Content-Range names no bytes")?;
                self.state = State::Content(range.end - range.start);
                return Ok(Some(Event::Part(found)));
            }
            State::Header(found) => {
                let line = std::str::from_utf8(line).map_err(|_| "a part's header is not text")?;
                let (name, value) = line.split_once(':').ok_or("a line of a part's header has no colon")?;
                if name.eq_ignore_ascii_case("content-range") {
                    let range = ContentRange::parse(value).ok_or("a part has an unusable Content-Range")?;
                    if found.replace(range).is_some() {
                        return Err("a part has two Content-Ranges");
                    }
                }
                if name.eq_ignore_ascii_case("content-encoding") && value.trim() != "identity" {
                    return Err("a part is encoded, which was not asked for");
                }
            }
            // Handled before lines are read.
            State::Content(_) | State::End => {}
        }
        Ok(None)
    }

    fn delimiter(&self, line: &[u8]) -> Option<Delimiter> {
        let rest = line.strip_prefix(b"--")?.strip_prefix(self.boundary.as_slice())?;
        let (rest, kind) = match rest.strip_prefix(b"--") {
            Some(rest) => (rest, Delimiter::Close),
            None => (rest, Delimiter::Part),
        };
        // Transport padding.
        rest.iter().all(|b| matches!(b, b' ' | b'\t')).then_some(kind)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delimiter {
    Part,
    Close,
}

/// The boundary that a `Content-Type` of `multipart/byteranges` names.
fn boundary(content_type: &str) -> Option<Vec<u8>> {
    let (media_type, parameters) = content_type.split_once(';')?;
    if !media_type.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    })?;
    // No character that a boundary may have needs an escape, and none of them is a semicolon.
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    let fits = (1..=MAX_BOUNDARY).contains(&value.len()) && !value.ends_with(' ');
    (fits && value.bytes().all(valid)).then(|| value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
