//! What was learned from pulls: plain data, without clock and waiting.

use std::collections::HashMap;

use registry::{Credential, Reference};

use crate::credential::{add_distinct, names_of};

/// Most credentials that are kept for an image.
const MAX_PER_IMAGE: usize = 4;
/// Most candidates for an image, those of other images in its repository among them.
const MAX_CANDIDATES: usize = 8;
/// Uses that are nearer to each other count as one: a store need not be written for each.
const USE_GRAIN: u64 = 3600;

/// Seconds since 1970.
pub(super) type Time = u64;

/// All images of which something was learned.
#[derive(Debug, Default)]
pub(super) struct Learned {
    images: HashMap<String, Image>,
    /// Most images that are kept.
    max_images: usize,
    /// How long an image is kept after its last use, in seconds.
    keep: u64,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// `host/repository`, by which images know their neighbours.
    pub repository: String,
    /// What the runtime calls the image, once it was pulled.
    pub id: String,
    pub used: Time,
    /// The most promising first.
    pub lessons: Vec<Lesson>,
}

/// A credential that came with a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lesson {
    /// The host that it is for; empty if for whichever serves the image.
    pub server: String,
    pub credential: Credential,
}

impl Lesson {
    fn is_for(&self, host: &str) -> bool {
        self.server.is_empty() || names_of(host).any(|name| name.eq_ignore_ascii_case(&self.server))
    }
}

/// The name that an image is remembered by. A digest says all, as for the container runtime.
pub(super) fn key_of(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => format!("{}@{digest}", repository_of(reference)),
        None => reference.to_string(),
    }
}

pub(super) fn repository_of(reference: &Reference) -> String {
    format!("{}/{}", reference.host(), reference.repository())
}

/// The host in a server address, which may be a URL.
pub(super) fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

impl Learned {
    pub fn new(max_images: usize, keep: u64) -> Learned {
        Learned { images: HashMap::new(), max_images, keep }
    }

    /// Remembers a credential as the most promising one of an image.
    pub fn learn(&mut self, reference: &Reference, lesson: Lesson, now: Time) {
        self.expire(now);
        let image = self.images.entry(key_of(reference)).or_insert_with(|| Image {
            repository: repository_of(reference),
            id: String::new(),
            used: now,
            lessons: Vec::new(),
        });
        image.used = now;
        image.lessons.retain(|known| *known != lesson);
        image.lessons.insert(0, lesson);
        image.lessons.truncate(MAX_PER_IMAGE);
        self.make_room();
    }

    /// A pull has ended well: the runtime knows the image as `id`.
    pub fn succeeded(&mut self, reference: &Reference, lesson: Option<&Lesson>, id: String) {
        let Some(image) = self.images.get_mut(&key_of(reference)) else { return };
        image.id = id;
        if let Some(at) = image.lessons.iter().position(|known| Some(known) == lesson) {
            image.lessons[..=at].rotate_right(1);
        }
    }

    /// A pull has failed: its credential is now the least promising one. It is kept, since what failed may be
    /// something else.
    pub fn failed(&mut self, reference: &Reference, lesson: &Lesson) {
        let Some(image) = self.images.get_mut(&key_of(reference)) else { return };
        if let Some(at) = image.lessons.iter().position(|known| known == lesson) {
            image.lessons[at..].rotate_left(1);
        }
    }

    /// Forgets the image with this key or ID. Whether there was one.
    pub fn forget(&mut self, key: Option<&str>, id: &str) -> bool {
        let before = self.images.len();
        self.images
            .retain(|known, image| Some(known.as_str()) != key && (image.id.is_empty() || image.id != id));
        self.images.len() != before
    }

    /// The candidates for `reference` at `host`: its own, then those of other images in its repository, the last
    /// used first. True if a use was noted that is worth to be written down.
    pub fn candidates(&mut self, host: &str, reference: &Reference, now: Time) -> (Vec<Credential>, bool) {
        self.expire(now);
        let key = key_of(reference);
        let mut noted = false;
        let mut candidates = Vec::new();
        if let Some(image) = self.images.get_mut(&key) {
            noted = now.saturating_sub(image.used) >= USE_GRAIN;
            if noted {
                image.used = now;
            }
            add_distinct(&mut candidates, image.for_host(host), MAX_CANDIDATES);
        }
        let repository = repository_of(reference);
        let mut others: Vec<_> = self
            .images
            .iter()
            .filter(|(known, image)| image.repository == repository && **known != key)
            .collect();
        others.sort_by(|(a, x), (b, y)| y.used.cmp(&x.used).then_with(|| a.cmp(b)));
        for (_, image) in others {
            add_distinct(&mut candidates, image.for_host(host), MAX_CANDIDATES);
        }
        (candidates, noted)
    }

    /// All images and their keys.
    pub fn images(&self) -> impl Iterator<Item = (&String, &Image)> {
        self.images.iter()
    }

    /// Takes an image from a store.
    pub fn restore(&mut self, key: String, mut image: Image, now: Time) {
        // A clock that was set back must not keep things for ever.
        image.used = image.used.min(now);
        image.lessons.truncate(MAX_PER_IMAGE);
        self.images.entry(key).or_insert(image);
        self.expire(now);
        self.make_room();
    }

    fn expire(&mut self, now: Time) {
        let keep = self.keep;
        self.images.retain(|_, image| now.saturating_sub(image.used) < keep);
    }

    fn make_room(&mut self) {
        while self.images.len() > self.max_images {
            let oldest = self.images.iter().min_by_key(|(_, image)| image.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.images.remove(&oldest);
        }
    }
}

impl Image {
    fn for_host(&self, host: &str) -> impl Iterator<Item = Credential> {
        self.lessons.iter().filter(move |lesson| lesson.is_for(host)).map(|lesson| lesson.credential.clone())
    }
}

#[cfg(test)]
mod tests;
