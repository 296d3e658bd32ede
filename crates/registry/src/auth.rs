//! Who we are to each registry: finds out what a host wants, gets it, keeps it, renews it.
//!
//! One [`Session`] for each (host, repository), and for each set of scopes beside that of reading. Its lock is held while a token is fetched, so that of many
//! requests that need one only one fetches it and the others find it; one that is cancelled simply lets the
//! next one go on.
//!
//! Of the credentials that the keychains offer, each is tried until one is accepted. One that was refused is
//! not sent again for a while, however many requests come: hosts lock accounts after a few wrong passwords.

mod candidates;
mod refusals;
mod token;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::MutexGuard;
use zeroize::Zeroizing;

use crate::challenge::{self, Challenge};
use crate::credential::{Credential, Keychain};
use crate::error::{Error, Kind};
use crate::hosts::Endpoint;
use crate::reference::Reference;
use crate::retry::{Budget, Fault};
use crate::secret::secret_header;
use crate::transport::Http;

use candidates::{Candidate, Candidates};
use refusals::{Fingerprint, Refusals};

/// Sessions kept at most, unless more are in use at once.
const MAX_SESSIONS: usize = 512;
/// Credentials tried for one request.
const MAX_TRIED: usize = 16;

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
    pub allow_link_local: bool,
    /// What tokens have to allow, as scopes separated by spaces; none: what the host demands.
    pub scopes: Option<&'a str>,
}

/// The right to ask one host for one repository, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Session {
    state: tokio::sync::Mutex<State>,
    /// Held by the request that tries a grant out. The others wait for what comes of it.
    trial: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What the host asked for last time.
    demand: Option<Demand>,
    grant: Option<Grant>,
    refusals: Refusals,
    /// Shared with those who waited while it happened; they need not fail one after the other.
    failure: Option<(Instant, Fault)>,
}

impl Session {
    /// Waits for one's turn to try a grant out.
    pub async fn trial(&self, party: &Party<'_>) -> Result<MutexGuard<'_, ()>, Fault> {
        let late = |_| {
            let text = format!(
                "{}: {} did not answer whether it takes our credentials",
                party.reference, party.endpoint.name
            );
            Fault::retry(Error::new(Kind::Timeout, text))
        };
        tokio::time::timeout(party.budget.left(), self.trial.lock()).await.map_err(late)
    }
}

/// A value for the `Authorization` header.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub header: HeaderValue,
    /// For error texts: which credentials stand behind it, and what to do if they do not suffice.
    pub origin: Arc<str>,
    pub obtained: Instant,
    credential: Fingerprint,
    /// Whether the host has accepted it once. What a server of tokens gave out counts as accepted.
    proven: Arc<AtomicBool>,
    /// From when on a new one is fetched ahead of time, and when this one ends.
    lifetime: Option<(Instant, Instant)>,
}

impl Grant {
    /// Whether it is past its time: then a refusal says nothing of the credential behind it.
    pub fn has_ended(&self) -> bool {
        self.lifetime.is_some_and(|(_, ends)| Instant::now() >= ends)
    }

    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Notes that the host accepted it.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
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

    pub fn session(&self, party: &Party<'_>) -> Arc<Session> {
        let allowed = party.scopes.unwrap_or_else(|| party.reference.repository());
        let key = (party.endpoint.key().to_string(), allowed.to_owned());
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

    /// A grant to send in place of `refused`, after an answer with this status and these headers. `fresh` says
    /// that the refused one was obtained for this very request, so that its credential is at fault and not its
    /// age. None if there is no other grant to be had.
    pub async fn renew(
        &self,
        session: &Session,
        party: &Party<'_>,
        answer: (StatusCode, &HeaderMap),
        refused: Option<&Grant>,
        fresh: bool,
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
        state.grant = None;
        if let Some(demand) = demand_of(answer.1, party)? {
            state.demand = Some(demand);
        }
        if state.demand.is_none() {
            return Ok(None);
        }
        if let Some(grant) = refused
            && (fresh || grant.lifetime.is_none())
        {
            state.refusals.note(grant.credential, refusal(party, answer.0, &grant.origin));
        }
        loop {
            match self.obtain(&mut state, party, asked).await {
                Ok(grant) if refused.is_some_and(|refused| refused.header == grant.header) => {
                    state.grant = None;
                    state.refusals.note(grant.credential, refusal(party, answer.0, &grant.origin));
                }
                Ok(grant) => return Ok(Some(grant)),
                // The answer at hand tells more.
                Err(fault) if refused.is_some() && is_refusal(&fault) => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Gets a new grant for what the host demands. `asked` is when the caller began to wait for the lock.
    async fn obtain(&self, state: &mut State, party: &Party<'_>, asked: Instant) -> Result<Grant, Fault> {
        if let Some((when, fault)) = &state.failure
            && *when >= asked
        {
            return Err(fault.clone());
        }
        let demand = state.demand.clone().unwrap_or(Demand::Basic);
        match self.try_all(&demand, &mut state.refusals, party).await {
            Ok(grant) => {
                state.failure = None;
                state.grant = Some(grant.clone());
                Ok(grant)
            }
            Err(fault) => {
                // One refusal does not say that the next credential will be refused.
                state.failure = (!is_refusal(&fault)).then(|| (Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// The grant of the first credential that is accepted, as far as that shows before the request itself.
    async fn try_all(
        &self,
        demand: &Demand,
        refusals: &mut Refusals,
        party: &Party<'_>,
    ) -> Result<Grant, Fault> {
        let host = &party.endpoint.name;
        let mut candidates = Candidates::ask(&self.keychains, host, party.reference, party.budget.left());
        let (mut tried, mut skipped) = (0, 0);
        let mut last = None;
        while tried < MAX_TRIED
            && let Some(Candidate { credential, keychain }) = candidates.next().await
        {
            let fingerprint = refusals.fingerprint(Some(&credential));
            if refusals.is_refused(fingerprint) {
                skipped += 1;
                continue;
            }
            tried += 1;
            let origin = format!(
                "with the credentials for {host} from {keychain}; check that they are valid and allow to {}",
                if party.scopes.is_some() { "push" } else { "pull" }
            );
            match demand.grant(party, Some(&credential), fingerprint, origin.into()).await {
                Err(fault) if is_refusal(&fault) => {
                    refusals.note(fingerprint, fault.error.clone());
                    last = Some(fault);
                }
                result => return result,
            }
        }
        // Public content can be had by nobody in particular, also when what we hold is out of date; but a host
        // that knows us and refuses would not give it to anybody.
        let nobody = refusals.fingerprint(None);
        let failures = &candidates.failures;
        if !refusals.is_refused(nobody) && !refusals.any_forbidden() {
            let origin = match tried + skipped {
                0 => format!(
                    "without credentials, as there are none for {host}; run `docker login {host}`{failures}"
                ),
                _ => format!("without credentials, as those for {host} were refused; check them{failures}"),
            };
            match demand.grant(party, None, nobody, origin.into()).await {
                Err(fault) if is_refusal(&fault) => {
                    refusals.note(nobody, fault.error.clone());
                    last = last.or(Some(fault));
                }
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| Fault::give_up(refusals.remembered(party.reference, failures))))
    }
}

impl Demand {
    /// What to send in the name of `credential`; `origin` are the words about it for error texts.
    async fn grant(
        &self,
        party: &Party<'_>,
        credential: Option<&Credential>,
        fingerprint: Fingerprint,
        origin: Arc<str>,
    ) -> Result<Grant, Fault> {
        let host = &party.endpoint.name;
        let refused = |what: fmt::Arguments<'_>| {
            let text = format!("{}: {host} wants {what}", party.reference);
            Err(Fault::give_up(Error::new(Kind::Unauthorized, text)))
        };
        let (header, lifetime) = match (self, credential) {
            (Demand::Bearer(_), Some(Credential::RegistryToken(token))) => {
                let Ok(header) = secret_header(format!("Bearer {}", token.expose())) else {
                    return refused(format_args!(
                        "a token, and that which was found does not fit into a header"
                    ));
                };
                (header, None)
            }
            (Demand::Bearer(server), credential) => {
                let token = server.fetch(party, credential, &origin).await?;
                (token.header, Some(token.lifetime))
            }
            (Demand::Basic, Some(Credential::Password { user, secret })) => {
                (basic_header(user, secret.expose()), None)
            }
            (Demand::Basic, Some(_)) => {
                return refused(format_args!(
                    "a user name and a password, and the credential found for it is an identity token; run \
                     `docker login {host}` with a password"
                ));
            }
            (Demand::Basic, None) => {
                return refused(format_args!("a user name and a password, and we came {origin}"));
            }
        };
        let proven = Arc::new(AtomicBool::new(lifetime.is_some()));
        Ok(Grant { header, origin, obtained: Instant::now(), credential: fingerprint, proven, lifetime })
    }
}

/// Whether a failure is about who we are.
fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.error.kind(), Kind::Unauthorized | Kind::Forbidden)
}

/// What a refusal by the host itself is remembered as.
fn refusal(party: &Party<'_>, status: StatusCode, origin: &str) -> Error {
    let kind = if status == StatusCode::FORBIDDEN { Kind::Forbidden } else { Kind::Unauthorized };
    Error::new(
        kind,
        format!("{}: {} answered {status}; we came {origin}", party.reference, party.endpoint.name),
    )
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
    let plain = Zeroizing::new(format!("{user}:{secret}"));
    let encoded = Zeroizing::new(STANDARD.encode(plain.as_bytes()));
    secret_header(format!("Basic {}", *encoded)).expect("base64 is valid in a header")
}
