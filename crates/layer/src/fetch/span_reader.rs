//! Cuts the body of an answer into the spans that were asked for.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::decode::{Compressed, IN_MEMORY_MAX};
use super::flight::Ticket;
use crate::error::Error;
use crate::image::ImageFiles;
use crate::source::Piece;

/// A span whose compressed bytes are all here.
#[derive(Debug)]
pub(super) struct Arrived {
    pub ticket: Ticket,
    pub compressed: Compressed,
}

/// What is still to come, and the part of the next span that has come.
///
/// A span whose blob range is long but whose chunks are short is read only as far as its chunks can need: the length
/// comes from an untrusted table.
#[derive(Debug)]
pub(super) struct SpanReader {
    files: Arc<ImageFiles>,
    waiting: VecDeque<(Ticket, Range<u64>)>,
    /// Blob offset of the next byte.
    position: u64,
    partial: Partial,
    /// Where the span begins of which a part has come.
    partial_start: u64,
}

#[derive(Debug)]
enum Partial {
    Nothing,
    Memory(BytesMut),
    Spooled(File),
}

impl SpanReader {
    pub fn new(files: Arc<ImageFiles>, tickets: Vec<Ticket>) -> SpanReader {
        let mut reader = SpanReader {
            files,
            waiting: VecDeque::new(),
            position: 0,
            partial: Partial::Nothing,
            partial_start: 0,
        };
        reader.add(tickets);
        reader
    }

    /// Wants these spans too.
    pub fn add(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if let Some(range) = self.needed(ticket.span()) {
                self.waiting.push_back((ticket, range));
            }
        }
        self.waiting.make_contiguous().sort_by_key(|(_, range)| range.start);
    }

    /// The bytes of the blob that the missing chunks of a span can need.
    fn needed(&self, span: usize) -> Option<Range<u64>> {
        let tables = &self.files.tables;
        let span = tables.span(span)?;
        let inner_end = tables
            .chunks_of(&span)
            .filter(|&chunk| !self.files.filled.get(chunk))
            .filter_map(|chunk| tables.chunk(chunk))
            .map(|chunk| chunk.inner_offset.saturating_add(chunk.size))
            .max()
            .unwrap_or(0);
        let bound = span.blob.start.saturating_add(format::compressed_bound(inner_end));
        Some(span.blob.start..span.blob.end.min(bound))
    }

    /// The spans that are still to come, and the bytes that each needs, ascending.
    pub fn remaining(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        self.waiting.iter().map(|(ticket, range)| (ticket.span(), range.clone()))
    }

    /// Takes out the spans that begin at this byte of the blob or behind it.
    pub fn split_off(&mut self, start: u64) -> Vec<Ticket> {
        let at = self.waiting.partition_point(|(_, range)| range.start < start);
        self.waiting.split_off(at).into_iter().map(|(ticket, _)| ticket).collect()
    }

    /// A new answer begins. A span of which a part had come begins again.
    pub fn restart(&mut self) {
        self.partial = Partial::Nothing;
    }

    /// Takes the next piece and returns the spans that it completes.
    pub fn push(&mut self, Piece { offset, bytes: mut piece }: Piece) -> Result<Vec<Arrived>, Error> {
        if offset != self.position {
            // The next part of an answer. What is missing of a span in between will be asked for again.
            self.restart();
            self.position = offset;
        }
        let mut arrived = Vec::new();
        let mut next = 0;
        while let Some((_, range)) = self.waiting.get(next) {
            let range = range.clone();
            let begun = !matches!(self.partial, Partial::Nothing) && self.partial_start == range.start;
            if self.position > range.start && !begun {
                // Its first bytes are not in this answer.
                next += 1;
                continue;
            }
            if self.position < range.start {
                let skip = (range.start - self.position).min(piece.len() as u64);
                self.position += skip;
                let _ = piece.split_to(skip as usize);
            }
            if piece.is_empty() && self.position < range.end {
                break;
            }
            let take = range.end.saturating_sub(self.position).min(piece.len() as u64);
            let bytes = piece.split_to(take as usize);
            self.position += take;
            let whole = self.position >= range.end;
            self.partial_start = range.start;
            match self.gather(bytes, range.end - range.start, whole)? {
                Some(compressed) => {
                    if let Some((ticket, _)) = self.waiting.remove(next) {
                        arrived.push(Arrived { ticket, compressed });
                    }
                }
                None => break,
            }
        }
        // Behind the last wanted byte, or between two spans.
        self.position += piece.len() as u64;
        Ok(arrived)
    }

    /// Adds bytes to the partial span; gives the span when it is whole.
    fn gather(&mut self, bytes: Bytes, len: u64, whole: bool) -> Result<Option<Compressed>, Error> {
        let spool = |error| Error::disk("spool a large span", error);
        match &mut self.partial {
            // The common case: the span lies within one piece and is not copied.
            Partial::Nothing if whole => return Ok(Some(Compressed::Memory(bytes))),
            Partial::Nothing if len <= IN_MEMORY_MAX => {
                let mut buffer = BytesMut::with_capacity(len as usize);
                buffer.extend_from_slice(&bytes);
                self.partial = Partial::Memory(buffer);
            }
            Partial::Nothing => {
                let mut file = tempfile::tempfile_in(&self.files.dir).map_err(spool)?;
                file.write_all(&bytes).map_err(spool)?;
                self.partial = Partial::Spooled(file);
            }
            Partial::Memory(buffer) => buffer.extend_from_slice(&bytes),
            Partial::Spooled(file) => file.write_all(&bytes).map_err(spool)?,
        }
        if !whole {
            return Ok(None);
        }
        Ok(match std::mem::replace(&mut self.partial, Partial::Nothing) {
            Partial::Nothing => None,
            Partial::Memory(buffer) => Some(Compressed::Memory(buffer.freeze())),
            Partial::Spooled(file) => Some(Compressed::Spooled(file)),
        })
    }

    /// Gives up what is still waiting.
    pub fn fail(self, error: &Error) -> Vec<(Ticket, Error)> {
        self.waiting.into_iter().map(|(ticket, _)| (ticket, error.clone())).collect()
    }
}
