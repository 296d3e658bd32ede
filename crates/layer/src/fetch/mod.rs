//! The engine that fills a layer.
//!
//! - [`plan`]: which ranges of the blob to ask for. Pure.
//! - [`readahead`]: how far to read ahead of what was asked for. Pure.
//! - [`flight`]: one fetch for one span, however many wait for it.
//! - [`driver`]: the input and output: read, decompress, verify, write, wake.
//!
//! A read that misses asks [`Engine::fill`] for chunks. Spans that nobody fetches yet are put into jobs, one for each
//! run of near spans; a job is a task of its own, so a reader that goes away does not take the fetch of others with
//! it. Each span wakes its waiters as soon as its own chunks are verified and written, while the rest of the answer
//! still arrives.

mod decode;
pub mod driver;
pub mod flight;
pub mod plan;
pub mod readahead;
mod span_reader;

pub use driver::{Engine, EngineOptions};
