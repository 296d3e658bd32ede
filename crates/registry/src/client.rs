//! The client: shared state, and one attempt at one host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use format::Digest;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Request, StatusCode};
use url::Url;

use crate::answer::Answer;
use crate::auth::{Auth, Grant, Party};
use crate::blob::Blob;
use crate::credential::Keychain;
use crate::dns::names_link_local;
use crate::error::{Error, Kind, Result};
use crate::health::Health;
use crate::hosts::{Endpoint, Hosts};
use crate::http::{describe, drain, shown};
use crate::kept::Kept;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::payload::Payload;
use crate::quirks::Quirks;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::Site;
use crate::transport::{Http, Pace};

/// Redirects followed in one attempt.
const MAX_REDIRECTS: usize = 10;

/// Longest location of a redirect, in bytes.
const MAX_LOCATION: usize = 16 << 10;
/// Grants tried in one attempt.
const MAX_RENEWALS: usize = 20;
/// How long a manifest is kept for the other layers of its image.
const MANIFESTS_KEPT: Duration = Duration::from_secs(60);

/// A client of OCI registries. Clones share connections, tokens and settings.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) http: Http,
    pub(crate) hosts: Hosts,
    auth: Auth,
    pub(crate) options: Options,
    pub(crate) health: Health,
    pub(crate) quirks: Quirks,
    /// Manifests that all layers of an image ask for at once; none where the registry has none.
    pub(crate) manifests: Kept<Option<Arc<Manifest>>>,
}

/// A request to be made, perhaps several times.
#[derive(Debug)]
pub(crate) struct Ask {
    method: Method,
    url: Url,
    pub headers: HeaderMap,
    body: Option<Payload>,
}

impl Ask {
    pub fn new(method: Method, url: Url) -> Ask {
        Ask { method, url, headers: HeaderMap::new(), body: None }
    }

    pub fn with_body(self, body: Payload) -> Ask {
        Ask { body: Some(body), ..self }
    }
}

impl Client {
    /// A client that asks `keychains`, in this order, for credentials.
    ///
    /// # Errors
    /// [`Kind::InvalidOptions`], naming the option.
    pub fn new(options: Options, keychains: Vec<Arc<dyn Keychain>>) -> Result<Client> {
        let http = Http::new(&options)?;
        let core = Core {
            hosts: Hosts::new(&options, &http)?,
            http,
            auth: Auth::new(keychains),
            options,
            health: Health::default(),
            quirks: Quirks::default(),
            manifests: Kept::new(MANIFESTS_KEPT),
        };
        Ok(Client { core: Arc::new(core) })
    }

    /// A handle for reading a blob of the reference's repository by ranges. Makes no request.
    pub fn blob(&self, reference: &Reference, digest: &Digest) -> Blob {
        Blob::new(Arc::clone(&self.core), reference, digest)
    }
}

impl Core {
    /// Asks one host once, following its demands for authentication and its redirects.
    pub async fn attempt(
        &self,
        site: &Site<'_>,
        method: Method,
        url: Url,
        headers: &HeaderMap,
    ) -> Result<Answer, Fault> {
        self.exchange(site, Ask { method, url, headers: headers.clone(), body: None }).await
    }

    /// As [`attempt`](Core::attempt), for a request that may have a body.
    pub async fn exchange(&self, site: &Site<'_>, ask: Ask) -> Result<Answer, Fault> {
        let Site { reference, endpoint, budget, scopes, .. } = site;
        let (reference, endpoint, budget) = (*reference, endpoint.as_ref(), *budget);
        let allow_link_local = self.options.allow_link_local;
        let scopes = scopes.as_deref();
        let party = Party { http: &self.http, endpoint, reference, budget, allow_link_local, scopes };
        let session = self.auth.session(&party);
        let started = Instant::now();
        let Ask { method, mut url, headers, body } = ask;
        let mut passed = Vec::new();
        let mut renewals = 0;
        let mut standing = Arc::from("without credentials, as the host did not say which it wants");
        loop {
            let ours = endpoint.owns(&url);
            let mut grant = if ours { self.auth.current(&session, &party).await? } else { None };
            let mut trial = None;
            if grant.as_ref().is_some_and(|grant| !grant.is_proven()) {
                trial = Some(session.trial(&party).await?);
                // Another request may have found out meanwhile.
                grant = self.auth.current(&session, &party).await?;
            }
            let mut request = build(&method, &url, &headers, ours.then_some(endpoint), grant.as_ref());
            let response = match &body {
                None => self.http.send(endpoint, request, budget.cap(endpoint.request_timeout)).await?,
                Some(body) => {
                    let sent = Arc::default();
                    *request.body_mut() = Some(body.body(&sent));
                    let pace = Pace { sent, size: body.len(), last: self.options.fetch_timeout };
                    self.http.send_body(endpoint, request, &pace).await?
                }
            };
            let status = response.status();
            if let Some(grant) = &grant {
                standing = Arc::clone(&grant.origin);
            }
            // Some registries answer 403, not 401, when what they granted has expired.
            let refused =
                status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && grant.is_some());
            if ours && refused && renewals < MAX_RENEWALS {
                renewals += 1;
                let fresh =
                    grant.as_ref().is_some_and(|grant| grant.obtained >= started && !grant.has_ended());
                let answer = (status, response.headers());
                match self.auth.renew(&session, &party, answer, grant.as_ref(), fresh).await {
                    Ok(Some(_)) => {
                        drain(response).await;
                        continue;
                    }
                    Err(fault) if status == StatusCode::UNAUTHORIZED => return Err(fault),
                    Ok(None) | Err(_) => {}
                }
            }
            if let Some(grant) = grant.filter(|_| !refused) {
                grant.prove();
            }
            drop(trial);
            if let Some(next) = redirect(response.status(), response.headers(), &url)? {
                passed.push(url);
                self.check_redirect(&method, &passed, &next)?;
                drain(response).await;
                url = next;
                continue;
            }
            if !matches!(status.as_u16(), 408 | 429 | 500..) {
                self.health.note_success(endpoint.key());
            }
            let what = describe(&method, &url);
            let step = endpoint.request_timeout;
            return Ok(Answer { response, what, redirected: !ours, url, step, standing });
        }
    }

    /// Whether a redirect may be followed, to `next` after having `passed` these.
    fn check_redirect(&self, method: &Method, passed: &[Url], next: &Url) -> Result<(), Fault> {
        let Some(from) = passed.last() else { return Ok(()) };
        let wrong = |what: String| {
            Err(Fault::give_up(Error::new(Kind::Protocol, format!("{}: {what}", describe(method, from)))))
        };
        if passed.contains(next) {
            return wrong(format!("redirects in a circle, to {}", shown(next)));
        }
        if passed.len() > MAX_REDIRECTS {
            return wrong(format!("more than {MAX_REDIRECTS} redirects"));
        }
        if names_link_local(next) && next.host() != from.host() && !self.options.allow_link_local {
            return wrong(format!(
                "redirects to {}, a link-local address, which is refused unless link-local addresses are allowed",
                shown(next)
            ));
        }
        Ok(())
    }
}

fn build(
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    host: Option<&Endpoint>,
    grant: Option<&Grant>,
) -> Request {
    let mut request = Request::new(method.clone(), url.clone());
    let all = request.headers_mut();
    if let Some(host) = host {
        all.extend(host.headers.clone());
    }
    all.extend(headers.clone());
    all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(grant) = grant {
        all.insert(AUTHORIZATION, grant.header.clone());
    }
    request
}

/// Where an answer sends us, if it does.
fn redirect(status: StatusCode, headers: &HeaderMap, from: &Url) -> Result<Option<Url>, Fault> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let wrong = |what: &str| {
        let text = format!("{}: {status} {what}", shown(from));
        Err(Fault::give_up(Error::new(Kind::Protocol, text)))
    };
    let Some(location) = headers.get(LOCATION) else { return wrong("without a location") };
    if location.len() > MAX_LOCATION {
        return wrong("to a location that is too long");
    }
    let Some(to) = location.to_str().ok().and_then(|location| from.join(location).ok()) else {
        return wrong("to a location that is not a URL");
    };
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(to)),
        ("https", "http") => wrong("to plain HTTP, which is not followed from HTTPS"),
        _ => wrong("to a location that is neither HTTP nor HTTPS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_lose_encryption() {
        let rows = [
            ("http://a.test/x", "http://b.test/y", Ok("http://b.test/y")),
            ("http://a.test/x", "https://b.test/y", Ok("https://b.test/y")),
            ("https://a.test/x/y", "z?q=1", Ok("https://a.test/x/z?q=1")),
            ("https://a.test/x", "//b.test/y", Ok("https://b.test/y")),
            ("https://a.test/x", "http://a.test/x", Err("not followed from HTTPS")),
            ("https://a.test/x", "data:,x", Err("neither HTTP nor HTTPS")),
        ];
        for (from, location, expected) in rows {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            let found = redirect(StatusCode::FOUND, &headers, &Url::parse(from).unwrap());
            match expected {
                Ok(to) => assert_eq!(found.unwrap().unwrap().as_str(), to),
                Err(reason) => {
                    assert!(found.unwrap_err().error.to_string().contains(reason), "{from} {location}")
                }
            }
            assert!(redirect(StatusCode::OK, &headers, &Url::parse(from).unwrap()).unwrap().is_none());
        }
    }
}
