//! Keeps the secrets of one kind as the API server has them: a list, then the changes since, for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{Api, ApiError, Status, refusal};
use super::secrets::{Kind, Metadata, Name, Object};
use super::{Shared, Timing};

/// Secrets asked for with one request, and how many if those are too large.
const PAGES: [usize; 2] = [500, 10];
/// Most pages of a list.
const MAX_PAGES: usize = 5000;
/// How long a server is asked to go on with a watch.
const WATCH: Duration = Duration::from_secs(290);

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: Metadata,
}

/// What ended a watch.
enum End {
    /// Go on from this version.
    At(String),
    /// Start with a list.
    Lost,
}

/// Follows the secrets of `kind`. Does not end.
pub(super) async fn follow(api: Arc<Api>, kind: Kind, shared: Arc<Shared>) {
    let mut follower = Follower { pause: Pause::new(&shared.timing), api, kind, shared };
    loop {
        let mut version = follower.until_listed().await;
        while let End::At(next) = follower.watch(version).await {
            version = next;
        }
    }
}

struct Follower {
    api: Arc<Api>,
    kind: Kind,
    shared: Arc<Shared>,
    pause: Pause,
}

impl Follower {
    /// Lists until it works, and gives the version of the list.
    async fn until_listed(&mut self) -> String {
        loop {
            match self.list().await {
                Ok(version) => {
                    self.shared.succeeded(self.kind);
                    return version;
                }
                Err(error) => {
                    self.shared.failed(self.kind, error);
                    self.pause.wait().await;
                }
            }
        }
    }

    async fn list(&self) -> Result<String, ApiError> {
        match self.list_pages(PAGES[0]).await {
            Err(ApiError::TooLarge) => self.list_pages(PAGES[1]).await,
            result => result,
        }
    }

    async fn list_pages(&self, limit: usize) -> Result<String, ApiError> {
        let mut seen: HashSet<Name> = HashSet::new();
        let mut from = String::new();
        for _ in 0..MAX_PAGES {
            let page = self.api.list(self.kind, limit, &from).await?;
            let page: List = serde_json::from_slice(&page).map_err(malformed)?;
            for object in page.items.unwrap_or_default() {
                seen.insert(object.name());
                self.set(object);
            }
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => from = next,
                None => {
                    self.shared.secrets().retain(self.kind, |name| seen.contains(name));
                    return Ok(page.metadata.resource_version);
                }
            }
        }
        Err(ApiError::Failed(format!("the list of secrets has more than {MAX_PAGES} pages")))
    }

    fn set(&self, object: Object) {
        // The selector is the server's to obey; a secret of another type is none of ours.
        if object.kind.is_empty() || object.kind == self.kind.name() {
            let name = object.name();
            let entries = object.entries(self.kind);
            self.shared.secrets().set(self.kind, name, entries);
        }
    }

    /// Takes changes until the server ends the answer, or it breaks off.
    async fn watch(&mut self, mut version: String) -> End {
        let started = Instant::now();
        match self.take_changes(&mut version).await {
            Ok(()) => {
                self.shared.succeeded(self.kind);
                // An end that comes at once, again and again, is not one that was asked for.
                if started.elapsed() < self.shared.timing.min_pause {
                    self.pause.wait().await;
                }
                End::At(version)
            }
            Err(ApiError::Gone) => {
                self.pause.wait_if_hasty().await;
                End::Lost
            }
            Err(error) => {
                self.shared.failed(self.kind, error);
                self.pause.wait().await;
                End::At(version)
            }
        }
    }

    async fn take_changes(&mut self, version: &mut String) -> Result<(), ApiError> {
        let mut events = self.api.watch(self.kind, version, WATCH).await?;
        self.shared.succeeded(self.kind);
        while let Some(event) = events.next().await? {
            let event: Event = serde_json::from_slice(&event).map_err(malformed)?;
            let text = event.object.get();
            match event.kind.as_str() {
                "ADDED" | "MODIFIED" => {
                    let object: Object = serde_json::from_str(text).map_err(malformed)?;
                    version.clone_from(&object.metadata.resource_version);
                    self.set(object);
                }
                "DELETED" => {
                    let object: Object = serde_json::from_str(text).map_err(malformed)?;
                    version.clone_from(&object.metadata.resource_version);
                    self.shared.secrets().remove(self.kind, &object.name());
                }
                "BOOKMARK" => {
                    let bookmark: Bookmark = serde_json::from_str(text).map_err(malformed)?;
                    *version = bookmark.metadata.resource_version;
                }
                "ERROR" => {
                    let status: Status = serde_json::from_str(text).map_err(malformed)?;
                    return Err(refusal(status.code, status));
                }
                // Kinds that are not known yet.
                _ => {}
            }
            self.pause.reset();
        }
        Ok(())
    }
}

/// The parser's words may quote the text, which holds secrets.
fn malformed(error: serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    ApiError::Failed(format!("an answer is not the JSON that it should be (line {line}, column {column})"))
}

/// The pauses between attempts: twice as long each time, a little different for each node.
struct Pause {
    next: Duration,
    min: Duration,
    max: Duration,
    waited: Option<Instant>,
}

impl Pause {
    fn new(timing: &Timing) -> Pause {
        Pause { next: timing.min_pause, min: timing.min_pause, max: timing.max_pause, waited: None }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    async fn wait(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        // Between three quarters and all of it: nodes of a cluster lose their server at the same time.
        let part = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) % 256;
        tokio::time::sleep(pause * (768 + part as u32) / 1024).await;
        self.waited = Some(Instant::now());
    }

    /// Waits unless the last time was long ago.
    async fn wait_if_hasty(&mut self) {
        if self.waited.is_some_and(|waited| waited.elapsed() < self.max) {
            self.wait().await;
        } else {
            self.waited = Some(Instant::now());
        }
    }
}
