//! What an operator can see of a daemon that runs.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::cache_cli::Commands;
use crate::control::{Answers, Refusal};
use crate::logging;

/// The last log lines, oldest first: a list of JSON objects as text.
pub const RECENT_LINES: &str = "log.recent";

/// How often what is due now and then is done.
const TICK: Duration = Duration::from_secs(2);

/// Answers everything that the daemon can be asked on its control socket.
#[derive(Debug)]
pub struct Desk {
    /// About the layers on disk.
    pub cache: Commands,
}

#[async_trait]
impl Answers for Desk {
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        match command {
            RECENT_LINES => Ok(logging::recent().into()),
            _ => self.cache.answer(command, arguments).await,
        }
    }
}

/// Does what is due now and then, until it is dropped.
pub async fn housekeeping() {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        logging::settle();
    }
}
