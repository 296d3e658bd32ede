//! Credentials that pass through the container runtime interface (CRI).
//!
//! The kubelet sends the credentials of a pull to the image service of the container runtime. A [`CriProxy`] stands
//! between both, passes everything on, and tells a [`CriKeychain`] what it saw.

mod learned;
mod messages;
mod observe;
mod persist;
mod proxy;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use registry::{Credential, Keychain, KeychainError, Reference};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::Error;
use learned::{Learned, Lesson, Time, host_of, key_of};
use messages::Pull;
use persist::Store;

pub use proxy::{Beside, CriProxy};

/// Limits of a [`CriKeychain`].
#[derive(Clone, Debug)]
pub struct CriOptions {
    /// Most images of which credentials are kept; those that were used last stay.
    pub max_images: usize,
    /// How long the credentials of an image are kept after they were last asked for.
    pub expire_after: Duration,
    /// Where to keep them over a restart; None: only in memory.
    pub persist: Option<PersistOptions>,
}

/// The files of a [`CriKeychain`] that survives a restart.
#[derive(Clone, Debug)]
pub struct PersistOptions {
    /// The sealed credentials.
    pub store: PathBuf,
    /// The key that they are sealed with, which is made if it is missing. Only its owner can read it.
    pub key: PathBuf,
}

impl Default for CriOptions {
    fn default() -> CriOptions {
        CriOptions { max_images: 4096, expire_after: Duration::from_secs(30 * 24 * 3600), persist: None }
    }
}

/// What pulls have taught: for each image the last few credentials that it was pulled with.
///
/// An image that was pulled without a credential keeps those that are known, since a container may still be using
/// them. They are forgotten when the runtime is told to remove the image, and when they were not asked for in a long
/// time. A pull that fails leaves its credential as the least promising one.
#[derive(Debug)]
pub struct CriKeychain {
    shared: Arc<Shared>,
    writer: Option<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    learned: Mutex<Learned>,
    /// Told when there is something to be written down.
    changed: Notify,
    store: Option<Store>,
}

impl CriKeychain {
    /// A keychain with what a store holds. Must be called within a tokio runtime.
    ///
    /// A store or a key that cannot be used is logged, and the keychain begins empty: with an unusable store it is
    /// written anew, with an unusable key nothing is kept.
    pub async fn open(options: CriOptions) -> CriKeychain {
        let learned = Learned::new(options.max_images, options.expire_after.as_secs());
        let Some(files) = options.persist else {
            let shared = Shared { learned: learned.into(), changed: Notify::new(), store: None };
            return CriKeychain { shared: Arc::new(shared), writer: None };
        };
        let opening = tokio::task::spawn_blocking(move || {
            let mut learned = learned;
            let store = persist::open(&files, &mut learned, now());
            Shared { learned: learned.into(), changed: Notify::new(), store }
        });
        // Lost only when the runtime goes away.
        let lost = || Shared { learned: Learned::new(0, 0).into(), changed: Notify::new(), store: None };
        let shared = Arc::new(opening.await.unwrap_or_else(|_| lost()));
        let writes = shared.store.is_some();
        let writer = writes.then(|| tokio::spawn(persist::keep_written(Arc::clone(&shared))).abort_handle());
        CriKeychain { shared, writer }
    }

    /// Writes down what is known, now. Else it is done a moment after each change.
    ///
    /// # Errors
    /// If the store cannot be written. Without a store there is nothing to do.
    pub async fn flush(&self) -> Result<(), Error> {
        persist::write(&self.shared).await
    }

    /// Learns from a pull that is about to be passed on. What was learned is to be given back when the pull has
    /// ended.
    fn pulling(&self, pull: Pull) -> Option<Pulling> {
        let reference = match Reference::parse(&pull.image) {
            Ok(reference) => reference,
            Err(error) => {
                tracing::debug!(%error, "a pull names an image that is not understood");
                return None;
            }
        };
        let lesson = match pull.auth.map(|auth| (host_of(&auth.server).to_owned(), auth.credential)) {
            None | Some((_, Ok(None))) => None,
            Some((server, Ok(Some(credential)))) => Some(Lesson { server, credential }),
            Some((_, Err(problem))) => {
                tracing::warn!(image = %reference, problem, "the credential of a pull is not usable");
                None
            }
        };
        if let Some(lesson) = &lesson {
            self.shared.learned().learn(&reference, lesson.clone(), now());
            self.shared.changed.notify_one();
            tracing::debug!(image = %reference, server = lesson.server, "learned a credential from a pull");
        }
        Some(Pulling { reference, lesson })
    }

    /// A pull has ended: with an image, or with an error.
    fn pulled(&self, pulling: &Pulling, id: Option<String>) {
        let mut learned = self.shared.learned();
        match (id, &pulling.lesson) {
            (Some(id), lesson) => learned.succeeded(&pulling.reference, lesson.as_ref(), id),
            (None, Some(lesson)) => learned.failed(&pulling.reference, lesson),
            (None, None) => return,
        }
        drop(learned);
        self.shared.changed.notify_one();
    }

    /// The runtime has removed an image, named by reference or by ID.
    fn removed(&self, image: &str) {
        // An ID (`sha256:…`) may look like a reference, which then is not known.
        let key = Reference::parse(image).ok().map(|reference| key_of(&reference));
        if self.shared.learned().forget(key.as_deref(), image) {
            self.shared.changed.notify_one();
            tracing::debug!(image, "forgot the credentials of a removed image");
        }
    }
}

/// A pull under way.
#[derive(Debug)]
struct Pulling {
    reference: Reference,
    lesson: Option<Lesson>,
}

impl Shared {
    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CriKeychain {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

#[async_trait]
impl Keychain for CriKeychain {
    fn name(&self) -> String {
        "cri".into()
    }

    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let (candidates, noted) = self.shared.learned().candidates(host, reference, now());
        if noted {
            self.shared.changed.notify_one();
        }
        Ok(candidates)
    }
}

fn now() -> Time {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
