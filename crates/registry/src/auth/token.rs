//! Token servers: the distribution project's token protocol, and its OAuth2 form for identity tokens.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, StatusCode};
use url::Url;
use url::form_urlencoded::Serializer;

use super::{Party, basic_header};
use crate::answer::status_fault;
use crate::challenge::Challenge;
use crate::credential::Credential;
use crate::dns::names_link_local;
use crate::error::{Error, Kind};
use crate::hosts::is_loopback;
use crate::http::{describe, read_bounded, shown};
use crate::retry::Fault;
use crate::secret::{Secret, secret_header};

/// Largest answer of a token server, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// Lifetime of a token whose server does not say: the protocol's own default.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Longest lifetime believed.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed this long before its end at the latest, or for short-lived ones after 9/10 of their
/// life.
const RENEW_AHEAD: Duration = Duration::from_secs(30);
/// How we name ourselves to token servers that keep statistics.
const CLIENT_ID: &str = "stargz";

/// A token server, and what to ask it for.
#[derive(Clone, Debug)]
pub(super) struct Server {
    realm: Url,
    service: Option<String>,
    scope: String,
}

/// A token as an `Authorization` header, with when to renew it and when it ends.
pub(super) struct Token {
    pub header: HeaderValue,
    pub lifetime: (Instant, Instant),
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default)]
    access_token: Option<Secret>,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Server {
    /// Reads a `Bearer` challenge.
    pub fn from_challenge(challenge: &Challenge, party: &Party<'_>) -> Result<Server, Fault> {
        let host = &party.endpoint.name;
        let wrong = |what: fmt::Arguments<'_>| {
            Fault::give_up(Error::new(
                Kind::Protocol,
                format!("{}: the token server that {host} names {what}", party.reference),
            ))
        };
        let realm = challenge.param("realm").unwrap_or_default();
        let realm =
            Url::parse(realm).map_err(|error| wrong(format_args!("has no usable address: {error}")))?;
        // Credentials go there: not in clear text, unless the registry itself is spoken to in clear text.
        let plain_is_fine = party.endpoint.is_plain_http() || is_loopback(&realm);
        match realm.scheme() {
            "https" => {}
            "http" if plain_is_fine => {}
            scheme => return Err(wrong(format_args!("has a {scheme} address; https is required"))),
        }
        if names_link_local(&realm) && realm.host() != party.endpoint.base().host() && !party.allow_link_local
        {
            return Err(wrong(format_args!("has a link-local address, which is refused")));
        }
        let service = challenge.param("service").map(str::to_owned);
        let scope = match (party.scopes, challenge.param("scope")) {
            // What the host demands of one request is less than what the others will need.
            (Some(scopes), _) => scopes.to_owned(),
            (None, Some(scope)) if !scope.is_empty() => scope.to_owned(),
            (None, _) => format!("repository:{}:pull", party.reference.repository()),
        };
        Ok(Server { realm, service, scope })
    }

    /// Fetches a token. `origin` are the words about the credential for error texts.
    pub async fn fetch(
        &self,
        party: &Party<'_>,
        credential: Option<&Credential>,
        origin: &str,
    ) -> Result<Token, Fault> {
        let request = match credential {
            Some(Credential::IdentityToken(secret)) => self.oauth2_request(secret.expose()),
            Some(Credential::Password { user, secret }) => self.request(Some((user, secret.expose()))),
            _ => self.request(None),
        };
        let what = describe(request.method(), request.url());
        let limit = party.endpoint.request_timeout;
        let response = party.http.send(party.endpoint, request, party.budget.cap(limit)).await?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
                // Some refuse by 403 whom they do not know.
                let known = credential.is_some() && status == StatusCode::FORBIDDEN;
                let kind = if known { Kind::Forbidden } else { Kind::Unauthorized };
                let text = format!("{what}: {status}: no token for {}: we came {origin}", party.reference);
                return Err(Fault::give_up(Error::new(kind, text)));
            }
            _ => return Err(status_fault(&what, response).await),
        }
        let received = Instant::now();
        let body = read_bounded(response, &what, MAX_ANSWER, || party.budget.cap(limit))
            .await
            .map_err(Fault::of_body)?;
        // Texts of the JSON parser may quote the answer, which holds the token.
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| self.wrong_answer("is not a JSON token answer"))?;
        let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| self.wrong_answer("holds no token"))?;
        let header = secret_header(format!("Bearer {}", token.expose()))
            .map_err(|_| self.wrong_answer("holds a token that does not fit into a header"))?;
        Ok(Token { header, lifetime: lifetime(received, answer.expires_in) })
    }

    fn request(&self, user: Option<(&str, &str)>) -> Request {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            // Several scopes, separated by spaces in the challenge, are parameters of their own here.
            for scope in self.scope.split(' ').filter(|scope| !scope.is_empty()) {
                query.append_pair("scope", scope);
            }
            if let Some((user, _)) = user {
                query.append_pair("account", user);
            }
            query.append_pair("client_id", CLIENT_ID);
        }
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some((user, secret)) = user {
            request.headers_mut().insert(AUTHORIZATION, basic_header(user, secret));
        }
        request
    }

    fn oauth2_request(&self, refresh_token: &str) -> Request {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("client_id", CLIENT_ID)
            .append_pair("service", self.service.as_deref().unwrap_or_default())
            .append_pair("scope", &self.scope)
            .append_pair("refresh_token", refresh_token);
        let mut request = Request::new(Method::POST, self.realm.clone());
        *request.body_mut() = Some(form.finish().into());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request
    }

    fn wrong_answer(&self, what: &str) -> Fault {
        let text = format!("the answer of the token server {} {what}", shown(&self.realm));
        Fault::give_up(Error::new(Kind::Protocol, text))
    }
}

/// When to renew a token and when it ends. Counted from when we received it: clocks of servers differ from
/// ours.
fn lifetime(received: Instant, expires_in: Option<f64>) -> (Instant, Instant) {
    let life = match expires_in {
        Some(seconds) if seconds > 0.0 => {
            Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME)
        }
        _ => DEFAULT_LIFETIME,
    };
    (received + life - RENEW_AHEAD.min(life / 10), received + life)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_end() {
        let now = Instant::now();
        let rows = [
            (None, 54.0, 60.0),
            (Some(0.0), 54.0, 60.0),
            (Some(-5.0), 54.0, 60.0),
            (Some(f64::NAN), 54.0, 60.0),
            (Some(1.0), 0.9, 1.0),
            (Some(300.0), 270.0, 300.0),
            (Some(3600.0), 3570.0, 3600.0),
            (Some(1e300), 86_370.0, 86_400.0),
        ];
        for (expires_in, renew, end) in rows {
            let (renew_at, ends) = lifetime(now, expires_in);
            assert_eq!((renew_at - now).as_secs_f64(), renew, "{expires_in:?}");
            assert_eq!((ends - now).as_secs_f64(), end, "{expires_in:?}");
        }
    }

    #[tokio::test]
    async fn credentials_go_to_token_servers_over_https() {
        let options = crate::options::Options::default();
        let http = crate::transport::Http::new(&options).unwrap();
        let hosts = crate::hosts::Hosts::new(&options, &http).unwrap();
        let rows = [
            ("r.test/a", "https://auth.test/token", true),
            ("r.test/a", "http://auth.test/token", false),
            ("r.test/a", "http://localhost:1/token", true),
            ("localhost:5000/a", "http://auth.test/token", true),
            ("localhost:5000/a", "file:///etc/passwd", false),
            ("localhost:5000/a", "http://169.254.169.254/token", false),
            ("169.254.1.1/a", "https://169.254.1.1/token", true),
        ];
        for (reference, realm, accepted) in rows {
            let reference = reference.parse().unwrap();
            let endpoint = &hosts.of(&reference).await.unwrap()[0];
            let budget = crate::retry::Budget::new(Duration::from_secs(1));
            let (reference, allow_link_local, scopes) = (&reference, false, None);
            let party = Party { http: &http, endpoint, reference, budget, allow_link_local, scopes };
            let challenge = &crate::challenge::parse(&format!("Bearer realm=\"{realm}\""))[0];
            assert_eq!(Server::from_challenge(challenge, &party).is_ok(), accepted, "{reference} {realm}");
        }
    }
}
