//! An answer of a host, and what its status means.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use reqwest::{Response, StatusCode};
use url::Url;

use crate::error::{Error, Kind};
use crate::http::read_some;
use crate::retry::{Fault, Next, retry_after};

/// Longest text of a registry that is repeated in ours.
const MAX_REMARK: usize = 200;

/// The last answer of an attempt: after authentication and redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub response: Response,
    /// `METHOD url`, for error texts.
    pub what: String,
    /// Where the answer came from.
    pub url: Url,
    /// Whether that is not where the registry itself was asked.
    pub redirected: bool,
    /// Longest time without progress while the body is read.
    pub step: Duration,
    /// For error texts: as whom the registry was asked.
    pub standing: Arc<str>,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Lets through a success and the statuses that the caller `understands`.
    pub async fn judge(self, understands: &[StatusCode]) -> Result<Answer, Fault> {
        let status = self.status();
        if !status.is_success() && !understands.contains(&status) {
            let Fault { mut error, next } = status_fault(&self.what, self.response).await;
            if matches!(error.kind(), Kind::Unauthorized | Kind::Forbidden) {
                error = error.append(&match self.redirected {
                    true => "; the registry had sent us there".to_owned(),
                    false => format!("; we came {}", self.standing),
                });
            }
            return Err(Fault { error, next });
        }
        // Nothing but `identity` was accepted, and the bytes would not be those of the blob.
        match self.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                let text = format!(
                    "{}: the answer comes in content encoding {encoding:?}, which was not asked for",
                    self.what
                );
                Err(Fault::give_up(Error::new(Kind::Protocol, text)))
            }
            _ => Ok(self),
        }
    }
}

/// The failure that a status means.
pub(crate) async fn status_fault(what: &str, response: Response) -> Fault {
    let status = response.status();
    let (kind, next) = match status.as_u16() {
        401 => (Kind::Unauthorized, Next::GiveUp),
        403 | 451 => (Kind::Forbidden, Next::GiveUp),
        404 | 410 => (Kind::NotFound, Next::GiveUp),
        413 => (Kind::TooLarge, Next::GiveUp),
        416 => (Kind::RangeNotSatisfiable, Next::GiveUp),
        501 => (Kind::Protocol, Next::GiveUp),
        408 | 429 | 500..=599 => {
            let wait = retry_after(response.headers(), SystemTime::now());
            (Kind::Unavailable, wait.map_or(Next::Retry, Next::RetryAfter))
        }
        _ => (Kind::Protocol, Next::GiveUp),
    };
    let mut text = format!("{what}: {status}");
    let body = read_some(response).await;
    if let Some(remark) = remark(&body) {
        let _ = write!(text, " ({remark})"); // writing to a String cannot fail
    }
    Fault { error: Error::new(kind, text), next }
}

/// The first error of the distribution specification's error document, or the message of an IPFS node, fit for
/// one line of a log.
fn remark(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<Item>,
        #[serde(default, rename = "Message")]
        message: String,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    let text = match document.errors.into_iter().next() {
        Some(Item { code, message }) if message.is_empty() => code,
        Some(Item { message, .. }) => message,
        None => document.message,
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_REMARK).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_of_registries_are_short_and_printable() {
        let rows: &[(&str, Option<&str>)] = &[
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository\nname"},{"code":"X"}]}"#,
                Some("repositoryname"),
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, Some("DENIED")),
            (r#"{"errors":[]}"#, None),
            (r#"{"Message":"not found","Code":0}"#, Some("not found")),
            (r#"{"errors":[{}]}"#, None),
            ("<html>", None),
            ("", None),
        ];
        for (body, expected) in rows {
            assert_eq!(remark(body.as_bytes()).as_deref(), *expected, "{body}");
        }
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "ä".repeat(5000));
        assert_eq!(remark(long.as_bytes()).unwrap().chars().count(), MAX_REMARK);
    }
}
