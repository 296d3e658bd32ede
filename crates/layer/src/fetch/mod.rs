//! The engine that fills a layer.
//!
//! Pure parts:
//!
//! - [`plan`]: which ranges of the blob to ask for in one request;
//! - [`readahead`]: what to fetch along with a miss; [`link`]: what is known of the way to the store;
//! - [`flight`]: one fetch for one span, however many wait for it.
//!
//! Input and output:
//!
//! - [`engine`]: what a read that misses does;
//! - `job`: one or more requests: read, decompress, verify, write, wake;
//! - `sweep`: filling in the order of the blob, for prefetch, for a reader that reads everything, in the background;
//! - [`traffic`]: who gives way to whom;
//! - [`siblings`]: contents that the node has already; [`memo`]: contents that the disk has no room for.
//!
//! A read that misses asks [`Engine::fill`] for chunks. Spans that nobody fetches yet are put into jobs, which are tasks
//! of their own, so a reader that goes away does not take the fetch of others with it. Each span wakes its waiters as
//! soon as its own chunks are verified and written, while the rest of the answer still arrives.

mod decode;
pub mod engine;
pub mod flight;
mod job;
pub mod link;
pub mod memo;
mod ordered;
pub mod plan;
pub mod readahead;
pub mod siblings;
mod span_reader;
mod sweep;
pub(crate) mod trace;
pub mod traffic;

pub use engine::{Engine, EngineOptions};
pub use traffic::Priority;
