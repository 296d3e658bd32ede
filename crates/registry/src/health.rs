//! Which hosts failed a short time ago, so that others are asked first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a host that failed is asked last, unless it says how long itself.
const DOWN_FOR: Duration = Duration::from_secs(30);
/// The longest time that a host may say.
const MAX_DOWN_FOR: Duration = Duration::from_secs(300);
/// Hosts remembered at most.
const MAX_HOSTS: usize = 1024;

/// The hosts that failed, by their keys, and until when they are asked last.
#[derive(Debug, Default)]
pub(crate) struct Health {
    down: Mutex<HashMap<Arc<str>, Instant>>,
}

impl Health {
    /// Notes that a host failed in a way that is not about the request.
    pub fn note_failure(&self, host: &Arc<str>, asked_for: Option<Duration>) {
        let wait = asked_for.unwrap_or(DOWN_FOR).clamp(DOWN_FOR, MAX_DOWN_FOR);
        let mut down = self.lock();
        if down.len() >= MAX_HOSTS {
            down.retain(|_, until| *until > Instant::now());
        }
        if down.len() < MAX_HOSTS && down.insert(Arc::clone(host), Instant::now() + wait).is_none() {
            tracing::info!(host = &**host, "a host does not serve; others are asked before it for a while");
        }
    }

    /// Notes that a host answered.
    pub fn note_success(&self, host: &Arc<str>) {
        if self.lock().remove(host).is_some() {
            tracing::info!(host = &**host, "a host serves again");
        }
    }

    /// Whether a host is to be asked after others.
    pub fn is_down(&self, host: &Arc<str>) -> bool {
        self.lock().get(host).is_some_and(|until| *until > Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
