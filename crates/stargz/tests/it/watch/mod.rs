//! What an operator sees of a daemon, and can tell it.

mod config;
mod metrics;
mod policies;
mod profiles;
mod status;
