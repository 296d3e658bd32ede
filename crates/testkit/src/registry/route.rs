//! What the answer to a request is, before anything goes wrong with its delivery.

use std::str::FromStr as _;

use format::Digest;
use serde_json::json;

use super::fault::Plan;
use super::http::{Answer, Incoming, Unsatisfiable, parameters, range};
use super::{Listener, Shared, lock, parts};
use crate::content::Content;

pub(super) fn answer(shared: &Shared, listener: Listener, request: &Incoming, plan: &Plan) -> Answer {
    if let Some(status) = plan.status {
        return planned_status(shared, request, plan, status);
    }
    match (listener, request.method.as_str()) {
        (Listener::Registry, "GET" | "POST") if request.path == "/token" => token(shared, request),
        (Listener::Registry, "GET" | "HEAD") => api(shared, request, plan),
        (Listener::Cdn, "GET" | "HEAD") => cdn(shared, request, plan),
        _ => Answer::error(405, "UNSUPPORTED"),
    }
}

fn planned_status(shared: &Shared, request: &Incoming, plan: &Plan, status: u16) -> Answer {
    let mut answer = Answer::error(status, "UNKNOWN");
    if let Some(seconds) = plan.retry_after {
        answer = answer.header("Retry-After", seconds);
    }
    match status {
        401 => {
            let repository = split(&request.path).map_or("", |(repository, ..)| repository);
            match lock(&shared.gate).check(repository, None, &realm(shared)) {
                Err(challenge) => answer.header("WWW-Authenticate", challenge),
                Ok(()) => answer,
            }
        }
        416 => match find_blob(shared, &request.path) {
            Some(blob) => answer.header("Content-Range", format!("bytes */{}", blob.len())),
            None => answer,
        },
        _ => answer,
    }
}

fn realm(shared: &Shared) -> String {
    format!("http://{}/token", shared.addr)
}

fn token(shared: &Shared, request: &Incoming) -> Answer {
    let mut parameters = parameters(&request.query);
    parameters.extend(parameters_of_form(request));
    let header = request.headers.get("authorization").map(String::as_str);
    let Some(grant) = lock(&shared.gate).grant(header, &parameters) else {
        return Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"testkit\"");
    };
    let seconds = grant.ttl.as_secs();
    let body = json!({ "token": grant.token, "access_token": grant.token, "expires_in": seconds });
    Answer { body: body.to_string().into(), ..Answer::empty(200) }.header("Content-Type", "application/json")
}

fn parameters_of_form(request: &Incoming) -> Vec<(String, String)> {
    parameters(&String::from_utf8_lossy(&request.body))
}

fn api(shared: &Shared, request: &Incoming, plan: &Plan) -> Answer {
    let parts = split(&request.path);
    let repository = match parts {
        Some((repository, ..)) => repository,
        None if request.path == "/v2/" || request.path == "/v2" => "",
        None => return Answer::error(404, "NAME_UNKNOWN"),
    };
    let header = request.headers.get("authorization").map(String::as_str);
    if let Err(challenge) = lock(&shared.gate).check(repository, header, &realm(shared)) {
        return Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge);
    }
    match parts {
        None => Answer { body: "{}".into(), ..Answer::empty(200) }.header("Content-Type", "application/json"),
        Some((repository, "manifests", tag)) => {
            let key = (repository.to_owned(), tag.to_owned());
            let Some(document) = lock(&shared.content).manifests.get(&key).cloned() else {
                return Answer::error(404, "MANIFEST_UNKNOWN");
            };
            content(request, plan, document.bytes.into())
                .header("Content-Type", document.media_type)
                .header("Docker-Content-Digest", document.digest)
        }
        Some((_, _, digest)) => {
            let Some(blob) = find_blob(shared, digest) else { return Answer::error(404, "BLOB_UNKNOWN") };
            if let Some(url) = Digest::from_str(digest).ok().and_then(|digest| shared.redirect(digest)) {
                return Answer::empty(307).header("Location", url);
            }
            content(request, plan, blob)
                .header("Content-Type", "application/octet-stream")
                .header("Docker-Content-Digest", digest)
        }
    }
}

fn cdn(shared: &Shared, request: &Incoming, plan: &Plan) -> Answer {
    let digest = request.path.strip_prefix("/cdn/").and_then(|digest| Digest::from_str(digest).ok());
    if !digest.is_some_and(|digest| shared.admit(digest, &request.query)) {
        return Answer { body: "<Error><Code>AccessDenied</Code></Error>".into(), ..Answer::empty(403) };
    }
    match find_blob(shared, &request.path) {
        Some(blob) => content(request, plan, blob).header("Content-Type", "application/octet-stream"),
        None => Answer::empty(404),
    }
}

/// `/v2/REPOSITORY/(manifests|blobs)/NAME`, taken apart.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, name) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    matches!(kind, "manifests" | "blobs").then_some((repository, kind, name))
}

/// The blob whose digest `path` ends in.
fn find_blob(shared: &Shared, path: &str) -> Option<Content> {
    let digest = Digest::from_str(path.rsplit('/').next()?).ok()?;
    lock(&shared.content).blobs.get(&digest).cloned()
}

/// The whole, or the range of it that is wanted.
fn content(request: &Incoming, plan: &Plan, whole: Content) -> Answer {
    let len = whole.len();
    let wanted = request.headers.get("range").filter(|_| !plan.ignore_range);
    let several = wanted.filter(|header| header.contains(',') && !plan.one_range);
    if let Some(answer) = several.and_then(|header| parts::answer(header, plan, &whole)) {
        return answer;
    }
    match wanted.and_then(|header| range(header, len)) {
        None => Answer { body: whole, ..Answer::empty(200) }.header("Accept-Ranges", "bytes"),
        Some(Err(Unsatisfiable)) => {
            Answer::error(416, "RANGE_INVALID").header("Content-Range", format!("bytes */{len}"))
        }
        Some(Ok(range)) => {
            let lie = u64::from(plan.wrong_content_range);
            let told = format!("bytes {}-{}/{len}", range.start + lie, range.end - 1 + lie);
            let (start, body) = (range.start, whole.slice(range));
            Answer { body, start, ..Answer::empty(206) }.header("Content-Range", told)
        }
    }
}
