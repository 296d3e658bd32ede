//! What plugins have answered: plain data, without clock and waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::Plugin;
use super::protocol::{Answer, CacheKey, CacheKeyType, Image};
use crate::Error;

/// The end of a run of a plugin.
pub(super) type Outcome = Result<Arc<Answer>, Error>;

/// Most outcomes that are kept.
const MAX_KEPT: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<(Arc<Plugin>, CacheKey), (Outcome, Instant)>,
    /// How a plugin has last answered.
    habits: HashMap<Arc<Plugin>, CacheKeyType>,
}

impl Cache {
    /// What is known of `image`: the plugin's answer for it, for its registry, or for everything; or its failure.
    pub fn get(&self, plugin: &Arc<Plugin>, image: &Image, now: Instant) -> Option<Outcome> {
        let types = [CacheKeyType::Image, CacheKeyType::Registry, CacheKeyType::Global];
        types.into_iter().find_map(|key_type| {
            let (outcome, until) = self.kept.get(&(Arc::clone(plugin), key_type.key(image)))?;
            (now < *until).then(|| outcome.clone())
        })
    }

    /// What an answer for `image` is likely to be good for. Of a plugin that has not answered yet it is taken
    /// that it answers for the registry: the first images of a registry wait for one run.
    pub fn expected_key(&self, plugin: &Arc<Plugin>, image: &Image) -> CacheKey {
        self.habits.get(plugin).copied().unwrap_or(CacheKeyType::Registry).key(image)
    }

    /// Keeps the outcome of a run for `image`: an answer for as long as it says, a failure for `pause`.
    pub fn put(
        &mut self,
        plugin: &Arc<Plugin>,
        image: &Image,
        outcome: Outcome,
        pause: Duration,
        now: Instant,
    ) {
        let (key, keep) = match &outcome {
            Ok(answer) => {
                self.habits.insert(Arc::clone(plugin), answer.key_type);
                (answer.key_type.key(image), answer.keep)
            }
            Err(_) => (self.expected_key(plugin, image), pause),
        };
        if keep.is_zero() {
            return;
        }
        self.make_room(now);
        self.kept.insert((Arc::clone(plugin), key), (outcome, now + keep));
    }

    fn make_room(&mut self, now: Instant) {
        if self.kept.len() < MAX_KEPT {
            return;
        }
        self.kept.retain(|_, (_, until)| now < *until);
        if self.kept.len() < MAX_KEPT {
            return;
        }
        // Rare, and far beyond what a node has: the half that would go first anyway.
        let mut ends: Vec<Instant> = self.kept.values().map(|(_, until)| *until).collect();
        let (_, middle, _) = ends.select_nth_unstable(MAX_KEPT / 2);
        let middle = *middle;
        let mut room = MAX_KEPT / 2;
        self.kept.retain(|_, (_, until)| {
            let stays = *until > middle || room > 0 && *until == middle;
            room -= usize::from(stays && *until == middle);
            stays
        });
    }
}
