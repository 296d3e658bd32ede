//! What to fetch along with a miss.
//!
//! *A round trip is worth the bytes that the link moves in it*: reading that much more at most doubles the time of a
//! miss, and each later miss that it saves is a whole round trip saved. Which bytes those are follows from two
//! thoughts.
//!
//! *Who reads on where the last window ended will go on.* A reader of everything in the order of the blob gets a window
//! that doubles, and the next one before it has come to the end of the last, so that the link never idles. *Kin are
//! wanted together*: who reads a file of some class soon reads others of that class, in the same directory first and
//! then in those around it; see [`crate::image::Tables::kin`]. What a program does not touch lies between them in the
//! blob, and is left out.

use std::collections::HashMap;

use super::link::Link;
use crate::image::Tables;

/// Bounds of the windows, bytes of the blob.
const KIN_FIRST: std::ops::RangeInclusive<u64> = (64 << 10)..=(512 << 10);
const KIN_MOST: std::ops::RangeInclusive<u64> = (256 << 10)..=(4 << 20);
const WINDOW_FIRST: std::ops::RangeInclusive<u64> = (256 << 10)..=(4 << 20);
/// Where doubling ends: enough for 1 Gbit/s at 60 ms with half of it still to come.
const WINDOW_MAX: u64 = 16 << 20;
/// Kin are looked for up to so many directories above.
const KIN_UP: usize = 3;
/// So many candidates are looked at: a bound for the time that a miss costs.
const KIN_LOOKED_AT: usize = 4096;
/// Threads of a container that read different files at once rarely are more.
const STREAMS_MAX: usize = 8;
/// Classes with a budget of their own; no layer has so many that matter.
const CLASSES_MAX: usize = 256;

/// What is known of the readers of one layer. Plain data.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// Most recently used last.
    streams: Vec<Stream>,
    /// How much a miss of each class brings along.
    budgets: HashMap<u32, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// First span of the window.
    start: usize,
    /// One behind its last span.
    end: usize,
    /// Bytes of the window; 0 as long as nobody has read on often enough.
    window: u64,
    /// How often somebody read on.
    hits: u32,
}

/// Which spans are worth asking for.
pub trait Missing {
    /// Neither filled nor on its way.
    fn missing(&self, span: usize) -> bool;
}

impl<F: Fn(usize) -> bool> Missing for F {
    fn missing(&self, span: usize) -> bool {
        self(span)
    }
}

impl ReadAhead {
    /// Somebody is blocked on the spans `first..=last`, which are not filled; those on their way are among them.
    /// Returns the spans to ask for besides, each once, in no order.
    pub fn blocked(
        &mut self,
        tables: &Tables,
        (first, last): (usize, usize),
        link: &Link,
        missing: &impl Missing,
    ) -> Vec<usize> {
        let (Some(from), Some(to)) = (tables.span(first), tables.span(last)) else { return Vec::new() };
        let bytes = to.blob.end.saturating_sub(from.blob.start);
        let on_its_way = !missing.missing(first);
        if let Some(stream) = self.continued(first, missing) {
            let mut stream = self.streams.remove(stream);
            stream.hits += 1;
            if stream.window > 0 || stream.hits >= 2 {
                return self.sequential(tables, stream, last, bytes, link, missing);
            }
            self.remember(Stream { end: last + 1, ..stream });
        } else if !on_its_way {
            self.remember(Stream { start: first, end: last + 1, window: 0, hits: 0 });
        }
        if on_its_way { Vec::new() } else { self.kin(tables, first, link, missing) }
    }

    /// The stream that a reader of this span goes on with: inside of its window, or with nothing missing in between.
    fn continued(&self, span: usize, missing: &impl Missing) -> Option<usize> {
        self.streams.iter().rposition(|stream| {
            let inside = stream.window > 0 && (stream.start..stream.end).contains(&span);
            // What lies between was there already; far away it means nothing.
            let next = stream.end <= span
                && span - stream.end <= 256
                && (stream.end..span).all(|between| !missing.missing(between));
            inside || next
        })
    }

    fn remember(&mut self, stream: Stream) {
        if self.streams.len() == STREAMS_MAX {
            self.streams.remove(0);
        }
        self.streams.push(stream);
    }

    fn sequential(
        &mut self,
        tables: &Tables,
        mut stream: Stream,
        last: usize,
        bytes: u64,
        link: &Link,
        missing: &impl Missing,
    ) -> Vec<usize> {
        let end_of = |span: usize| tables.span(span).map_or(0, |span| span.blob.end);
        let here = end_of(last);
        let ahead = if stream.end > last + 1 { end_of(stream.end - 1).saturating_sub(here) } else { 0 };
        if ahead > stream.window / 2 {
            self.remember(stream);
            return Vec::new();
        }
        let first_window = link.round_trip().clamp(*WINDOW_FIRST.start(), *WINDOW_FIRST.end()).max(bytes);
        stream.window = (stream.window * 2).max(first_window).min(WINDOW_MAX);
        let until = here.saturating_add(stream.window);
        let begin = stream.end.max(last + 1);
        let end = (begin..tables.span_count())
            .find(|&span| end_of(span) > until)
            // A span that is larger than the window is a window of its own.
            .map_or(tables.span_count(), |span| span.max((begin + 1).min(tables.span_count())));
        self.remember(Stream { start: last, end, ..stream });
        (begin..end).filter(|&span| missing.missing(span)).collect()
    }

    fn kin(&mut self, tables: &Tables, span: usize, link: &Link, missing: &impl Missing) -> Vec<usize> {
        let round_trip = link.round_trip();
        let most = (round_trip + round_trip / 10).clamp(*KIN_MOST.start(), *KIN_MOST.end());
        let first = (round_trip / 5).clamp(*KIN_FIRST.start(), *KIN_FIRST.end());
        if self.budgets.len() == CLASSES_MAX {
            self.budgets.clear();
        }
        let budget = self.budgets.entry(tables.class(span)).or_insert(first / 2);
        *budget = (*budget * 2).max(first).min(most);
        let (mut left, mut found) = (*budget, Vec::new());
        let size_of =
            |span: usize| tables.span(span).map_or(u64::MAX, |span| span.blob.end - span.blob.start);
        for kin in kin_of(tables, span) {
            // Smaller ones that still fit may follow.
            let size = size_of(kin);
            if size <= left && missing.missing(kin) {
                left -= size;
                found.push(kin);
            }
        }
        found
    }
}

/// The kin of a span, nearest first: those in its own directory from the span outwards, then those of the directories
/// around it.
fn kin_of(tables: &Tables, span: usize) -> impl Iterator<Item = usize> + '_ {
    let own = tables.kin(span, 0).unwrap_or(0..0);
    let at = own.clone().find(|&place| tables.kin_at(place) == Some(span));
    // What was gone through so far, grown at either end.
    let mut seen = at.map_or(0..0, |at| at..at + 1);
    let levels = (0..=KIN_UP).map_while(move |up| tables.kin(span, up));
    levels
        .flat_map(move |level| {
            let mut steps = Vec::new();
            while seen.start > level.start || seen.end < level.end {
                if steps.len() >= KIN_LOOKED_AT {
                    break;
                }
                if seen.end < level.end {
                    steps.push(seen.end);
                    seen.end += 1;
                }
                if seen.start > level.start {
                    seen.start -= 1;
                    steps.push(seen.start);
                }
            }
            steps
        })
        .take(KIN_LOOKED_AT)
        .filter_map(|place| tables.kin_at(place))
}

#[cfg(test)]
mod tests;
