//! What was learned, on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry::{Credential, Secret};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::learned::{Image, Learned, Lesson, Time};
use super::{PersistOptions, Shared};
use crate::Error;
use crate::seal::Sealed;

/// Changes that come together are written together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How long after a failed write the next one is tried.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Where it is written.
#[derive(Debug)]
pub(super) struct Store {
    sealed: Arc<Sealed>,
    /// Writes go one after the other.
    writing: tokio::sync::Mutex<()>,
    failing: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    images: Vec<ImageRecord>,
}

#[derive(Serialize, Deserialize)]
struct ImageRecord {
    name: String,
    repository: String,
    #[serde(default)]
    id: String,
    used: Time,
    lessons: Vec<LessonRecord>,
}

#[derive(Serialize, Deserialize)]
struct LessonRecord {
    #[serde(default)]
    server: String,
    credential: CredentialRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CredentialRecord {
    Password {
        user: String,
        #[serde(serialize_with = "revealed")]
        secret: Secret,
    },
    IdentityToken(#[serde(serialize_with = "revealed")] Secret),
    RegistryToken(#[serde(serialize_with = "revealed")] Secret),
}

/// Secrets have no way to be serialized but this one, which ends in a sealed file.
fn revealed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// Opens the store and takes over what it holds. None if there can be none.
pub(super) fn open(files: &PersistOptions, learned: &mut Learned, now: Time) -> Option<Store> {
    let sealed = match Sealed::open(&files.store, &files.key) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::warn!(%error, "credentials learned from pulls will not survive a restart");
            return None;
        }
    };
    match sealed.read().map(|contents| contents.map(|contents| serde_json::from_slice::<Contents>(&contents)))
    {
        Ok(None) => {}
        Ok(Some(Ok(contents))) => {
            for record in contents.images {
                let (name, image) = record.into_image();
                learned.restore(name, image, now);
            }
        }
        Ok(Some(Err(_))) => {
            let store = files.store.display();
            tracing::warn!(%store, "the stored credentials are of another version; beginning with none");
        }
        Err(error) => tracing::warn!(%error, "the stored credentials are ignored; beginning with none"),
    }
    Some(Store {
        sealed: Arc::new(sealed),
        writing: tokio::sync::Mutex::default(),
        failing: AtomicBool::new(false),
    })
}

/// Writes after each change. Does not end.
pub(super) async fn keep_written(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        tokio::time::sleep(TOGETHER).await;
        let Some(store) = &shared.store else { return };
        match write(&shared).await {
            Ok(()) => store.failing.store(false, Ordering::Relaxed),
            Err(error) => {
                if !store.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "credentials learned from pulls are not written down; trying again");
                }
                tokio::time::sleep(AFTER_FAILURE).await;
                shared.changed.notify_one();
            }
        }
    }
}

/// Writes all that is known.
pub(super) async fn write(shared: &Shared) -> Result<(), Error> {
    let Some(store) = &shared.store else { return Ok(()) };
    let _one_at_a_time = store.writing.lock().await;
    let contents = Contents { images: shared.learned().images().map(ImageRecord::of).collect() };
    let sealed = Arc::clone(&store.sealed);
    let writing = tokio::task::spawn_blocking(move || {
        let mut size = Counter(0);
        // Neither can fail: texts and numbers can be written, and memory takes them.
        let _ = serde_json::to_writer(&mut size, &contents);
        // Room for all of it at once: a vector that grows leaves copies behind. The tag of the seal goes elsewhere.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size.0));
        let _ = serde_json::to_writer(&mut *bytes, &contents);
        sealed.write(bytes)
    });
    // Cancelled only when the runtime goes away.
    writing.await.unwrap_or(Ok(()))
}

/// Counts what is written to it.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ImageRecord {
    fn of((name, image): (&String, &Image)) -> ImageRecord {
        let lesson = |lesson: &Lesson| LessonRecord {
            server: lesson.server.clone(),
            credential: match &lesson.credential {
                Credential::Password { user, secret } => {
                    CredentialRecord::Password { user: user.clone(), secret: secret.clone() }
                }
                Credential::IdentityToken(token) => CredentialRecord::IdentityToken(token.clone()),
                Credential::RegistryToken(token) => CredentialRecord::RegistryToken(token.clone()),
            },
        };
        ImageRecord {
            name: name.clone(),
            repository: image.repository.clone(),
            id: image.id.clone(),
            used: image.used,
            lessons: image.lessons.iter().map(lesson).collect(),
        }
    }

    fn into_image(self) -> (String, Image) {
        let lesson = |record: LessonRecord| Lesson {
            server: record.server,
            credential: match record.credential {
                CredentialRecord::Password { user, secret } => Credential::Password { user, secret },
                CredentialRecord::IdentityToken(token) => Credential::IdentityToken(token),
                CredentialRecord::RegistryToken(token) => Credential::RegistryToken(token),
            },
        };
        let lessons = self.lessons.into_iter().map(lesson).collect();
        (self.name, Image { repository: self.repository, id: self.id, used: self.used, lessons })
    }
}
