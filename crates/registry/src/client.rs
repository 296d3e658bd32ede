//! The client: shared state, and one attempt at one host.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use format::Digest;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Request, StatusCode};
use url::Url;

use crate::answer::Answer;
use crate::auth::{Auth, Grant, Party};
use crate::blob::Blob;
use crate::credential::Keychain;
use crate::error::{Error, Kind, Result};
use crate::hosts::{Endpoint, Hosts};
use crate::http::{Http, describe, drain, shown};
use crate::options::Options;
use crate::reference::Reference;
use crate::retry::Fault;
use crate::rounds::Site;

/// Redirects followed in one attempt.
const MAX_REDIRECTS: usize = 10;

/// A client of OCI registries. Clones share connections, tokens and settings.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    http: Http,
    pub(crate) hosts: Hosts,
    auth: Auth,
    pub(crate) options: Options,
    /// Hosts seen to not understand "the last n bytes".
    suffix_refusers: Mutex<HashSet<String>>,
}

impl Client {
    /// A client that asks `keychains`, in this order, for credentials.
    ///
    /// # Errors
    /// [`Kind::InvalidOptions`], naming the option.
    pub fn new(options: Options, keychains: Vec<Arc<dyn Keychain>>) -> Result<Client> {
        let core = Core {
            http: Http::new(&options)?,
            hosts: Hosts::new(&options)?,
            auth: Auth::new(keychains),
            options,
            suffix_refusers: Mutex::default(),
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
        let Site { reference, endpoint, budget, .. } = site;
        let (reference, endpoint, budget) = (*reference, endpoint.as_ref(), *budget);
        let party = Party { http: &self.http, endpoint, reference, budget };
        let session = self.auth.session(endpoint, reference);
        let started = Instant::now();
        let mut url = url;
        let mut redirects = 0;
        let mut may_renew = true;
        let mut standing = Arc::from("without credentials, as the host did not say which it wants");
        loop {
            let ours = endpoint.owns(&url);
            let grant = if ours { self.auth.current(&session, &party).await? } else { None };
            let request = build(&method, &url, headers, ours.then_some(endpoint), grant.as_ref());
            let response = self.http.send(request, budget.cap(endpoint.request_timeout)).await?;
            let status = response.status();
            if let Some(grant) = &grant {
                standing = Arc::clone(&grant.origin);
            }
            // Some registries answer 403, not 401, when what they granted has expired.
            let stale = status == StatusCode::FORBIDDEN
                && grant.as_ref().is_some_and(|grant| grant.obtained < started);
            if ours && may_renew && (status == StatusCode::UNAUTHORIZED || stale) {
                match self.auth.renew(&session, &party, response.headers(), grant.as_ref()).await {
                    Ok(Some(new)) if grant.as_ref().is_none_or(|grant| grant.header != new.header) => {
                        // One that another request had fetched earlier may be refused too: then once more.
                        may_renew = new.obtained < started && grant.is_none();
                        drain(response).await;
                        continue;
                    }
                    Err(fault) if !stale => return Err(fault),
                    _ => {}
                }
            }
            if let Some(next) = redirect(response.status(), response.headers(), &url)? {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    let text = format!("{}: more than {MAX_REDIRECTS} redirects", describe(&method, &url));
                    return Err(Fault::give_up(Error::new(Kind::Protocol, text)));
                }
                drain(response).await;
                url = next;
                continue;
            }
            let what = describe(&method, &url);
            let step = endpoint.request_timeout;
            return Ok(Answer { response, what, redirected: !ours, url, step, standing });
        }
    }

    /// Whether the host is not known to refuse ranges that count from the end.
    pub fn understands_suffixes(&self, endpoint: &Endpoint) -> bool {
        !self.suffix_refusers.lock().unwrap_or_else(PoisonError::into_inner).contains(endpoint.key())
    }

    pub fn note_suffix_refuser(&self, endpoint: &Endpoint) {
        self.suffix_refusers.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.key().to_owned());
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
