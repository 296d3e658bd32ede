//! Who we are to each registry: finds out what a host wants, gets it, keeps it, renews it.
//!
//! One [`Session`] for each (host, repository). Its lock is held while a token is fetched, so that of many
//! requests that need one only one fetches it and the others find it; one that is cancelled simply lets the
//! next one go on.

mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::challenge::{self, Challenge};
use crate::credential::{Credential, Keychain, KeychainError};
use crate::error::{Error, Kind};
use crate::hosts::Endpoint;
use crate::http::Http;
use crate::reference::Reference;
use crate::retry::{Budget, Fault};

/// Sessions kept at most, unless more are in use at once.
const MAX_SESSIONS: usize = 512;

/// All sessions, and the keychains they draw on.
#[derive(Debug)]
pub(crate) struct Auth {
    keychains: Vec<Arc<dyn Keychain>>,
    sessions: Mutex<HashMap<(String, String), Arc<Session>>>,
}

/// What a request needs to know to authenticate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    pub http: &'a Http,
    pub endpoint: &'a Endpoint,
    pub reference: &'a Reference,
    pub budget: Budget,
}

/// The right to ask one host for one repository, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Session {
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the host asked for last time.
    demand: Option<Demand>,
    grant: Option<Grant>,
    /// Shared with those who waited while it happened; they need not fail one after the other.
    failure: Option<(Instant, Fault)>,
}

/// A value for the `Authorization` header.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub header: HeaderValue,
    /// For error texts: which credentials stand behind it, and what to do if they do not suffice.
    pub origin: Arc<str>,
    pub obtained: Instant,
    /// From when on a new one is fetched ahead of time, and when this one ends.
    lifetime: Option<(Instant, Instant)>,
}

/// How a host wants to be convinced.
#[derive(Clone, Debug)]
enum Demand {
    Basic,
    Bearer(token::Server),
}

impl Auth {
    pub fn new(keychains: Vec<Arc<dyn Keychain>>) -> Auth {
        Auth { keychains, sessions: Mutex::default() }
    }

    pub fn session(&self, endpoint: &Endpoint, reference: &Reference) -> Arc<Session> {
        let key = (endpoint.key().to_owned(), reference.repository().to_owned());
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&key) {
            sessions.retain(|_, session| Arc::strong_count(session) > 1);
        }
        Arc::clone(sessions.entry(key).or_default())
    }

    /// The grant to send now, renewed if it is about to end; none while the host has not asked for any.
    pub async fn current(&self, session: &Session, party: &Party<'_>) -> Result<Option<Grant>, Fault> {
        let asked = Instant::now();
        let mut state = session.state.lock().await;
        let Some((renew_at, ends)) = state.grant.as_ref().and_then(|grant| grant.lifetime) else {
            return Ok(state.grant.clone());
        };
        if Instant::now() < renew_at {
            return Ok(state.grant.clone());
        }
        match self.obtain(&mut state, party, asked).await {
            Ok(grant) => Ok(Some(grant)),
            // Still good for a moment; the next request tries again.
            Err(_) if Instant::now() < ends => Ok(state.grant.clone()),
            Err(fault) => Err(fault),
        }
    }

    /// A grant other than `refused`, after an answer with `headers` that refused it. None if the host does
    /// not say how to get one.
    pub async fn renew(
        &self,
        session: &Session,
        party: &Party<'_>,
        headers: &HeaderMap,
        refused: Option<&Grant>,
    ) -> Result<Option<Grant>, Fault> {
        let asked = Instant::now();
        let mut state = session.state.lock().await;
        let newer = state
            .grant
            .as_ref()
            .filter(|grant| refused.is_none_or(|refused| grant.obtained > refused.obtained));
        if let Some(grant) = newer {
            return Ok(Some(grant.clone()));
        }
        if let Some(demand) = demand_of(headers, party)? {
            state.demand = Some(demand);
        }
        if state.demand.is_none() {
            return Ok(None);
        }
        self.obtain(&mut state, party, asked).await.map(Some)
    }

    /// Gets a new grant for what the host demands. `asked` is when the caller began to wait for the lock.
    async fn obtain(&self, state: &mut State, party: &Party<'_>, asked: Instant) -> Result<Grant, Fault> {
        if let Some((when, fault)) = &state.failure
            && *when >= asked
        {
            return Err(fault.clone());
        }
        let result = match state.demand.clone() {
            Some(Demand::Bearer(server)) => self.bearer(&server, party).await,
            _ => self.basic(party).await,
        };
        match result {
            Ok(grant) => {
                state.failure = None;
                state.grant = Some(grant.clone());
                Ok(grant)
            }
            Err(fault) => {
                state.failure = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    async fn basic(&self, party: &Party<'_>) -> Result<Grant, Fault> {
        let host = &party.endpoint.name;
        let unauthorized = |what: &str| {
            let text = format!("{}: {host} wants a user name and a password, and {what}", party.reference);
            Fault::give_up(Error::new(Kind::Unauthorized, text))
        };
        match self.credential(party).await {
            (Some(Credential::Password { user, secret }), origin) => {
                let header = basic_header(&user, &secret);
                Ok(Grant { header, origin, obtained: Instant::now(), lifetime: None })
            }
            (Some(Credential::IdentityToken(_)), _) => Err(unauthorized(&format!(
                "the credential found for it is an identity token; run `docker login {host}` with a password"
            ))),
            (None, origin) => Err(unauthorized(&format!("we came {origin}"))),
        }
    }

    async fn bearer(&self, server: &token::Server, party: &Party<'_>) -> Result<Grant, Fault> {
        let (credential, origin) = self.credential(party).await;
        let token = server.fetch(party, credential.as_ref(), &origin).await?;
        Ok(Grant { header: token.header, origin, obtained: Instant::now(), lifetime: Some(token.lifetime) })
    }

    /// The first credential for the host, and the words about it for error texts.
    async fn credential(&self, party: &Party<'_>) -> (Option<Credential>, Arc<str>) {
        let host = &party.endpoint.name;
        let mut failures = String::new();
        for keychain in &self.keychains {
            let asking =
                tokio::time::timeout(party.budget.left(), keychain.credential(host, party.reference));
            let late = |_| KeychainError("a keychain did not answer in time".into());
            match asking.await.map_err(late).flatten() {
                Ok(Some(credential)) => {
                    let origin = format!(
                        "with the credentials for {host}; check that they are valid and allow to pull"
                    );
                    return (Some(credential), origin.into());
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(host, %error, "a keychain failed");
                    failures = format!("{failures}; {error}");
                }
            }
        }
        (
            None,
            format!("without credentials, as there are none for {host}; run `docker login {host}`{failures}")
                .into(),
        )
    }
}

/// Picks the strongest of the offers that we understand.
fn demand_of(headers: &HeaderMap, party: &Party<'_>) -> Result<Option<Demand>, Fault> {
    let offers: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .flat_map(|value| challenge::parse(&String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let offer = |scheme: &str| offers.iter().find(|offer| offer.scheme == scheme);
    if let Some(bearer) = offer("bearer") {
        return token::Server::from_challenge(bearer, party).map(|server| Some(Demand::Bearer(server)));
    }
    Ok(offer("basic").map(|_| Demand::Basic))
}

fn basic_header(user: &str, secret: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")));
    let mut header = HeaderValue::try_from(text).expect("base64 is valid in a header");
    header.set_sensitive(true);
    header
}
