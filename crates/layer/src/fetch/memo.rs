//! Verified chunks that the disk had no room for.
//!
//! The kernel reads a chunk in pieces; without a memory of it each piece would fetch all of it again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use format::Digest;

/// Chunks in memory, bounded; the oldest go first. Shared by all layers. One short lock.
#[derive(Debug)]
pub struct Memo {
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    chunks: HashMap<(Digest, usize), Bytes>,
    order: VecDeque<(Digest, usize)>,
    bytes: usize,
}

impl Memo {
    /// Holds at most `limit` bytes, and one chunk more.
    pub fn new(limit: usize) -> Memo {
        Memo { limit, held: Mutex::default() }
    }

    /// Keeps a verified chunk of a layer.
    pub fn keep(&self, layer: Digest, chunk: usize, bytes: Bytes) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (layer, chunk);
        if held.chunks.contains_key(&key) {
            return;
        }
        while held.bytes > 0 && held.bytes + bytes.len() > self.limit {
            let Some(oldest) = held.order.pop_front() else { break };
            let freed = held.chunks.remove(&oldest).map_or(0, |bytes| bytes.len());
            held.bytes -= freed;
        }
        held.bytes += bytes.len();
        held.order.push_back(key);
        held.chunks.insert(key, bytes);
    }

    /// The chunk, if it is still here.
    pub fn get(&self, layer: Digest, chunk: usize) -> Option<Bytes> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).chunks.get(&(layer, chunk)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let memo = Memo::new(25);
        let layer = Digest::of(b"layer");
        for chunk in 0..3 {
            memo.keep(layer, chunk, Bytes::from(vec![chunk as u8; 10]));
        }
        assert_eq!(memo.get(layer, 0), None);
        assert_eq!(memo.get(layer, 2).unwrap(), [2; 10].as_slice());
        assert_eq!(memo.get(Digest::of(b"other"), 2), None);
        memo.keep(layer, 9, Bytes::from(vec![9; 100]));
        assert_eq!(memo.get(layer, 9).unwrap().len(), 100);
        assert_eq!(memo.get(layer, 2), None);
    }
}
