//! Who may pull: nobody asked, a password, or a bearer token from the token endpoint.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a registry wants to see before it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    #[default]
    Anonymous,
    /// A user and a password with every request (RFC 7617).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token from `/token`, as distribution's "token authentication specification" describes. Its `GET` takes basic
    /// authentication, its `POST` the grants `password` and `refresh_token`.
    Bearer {
        /// User and password that the token endpoint wants, if any. The password is also the refresh token.
        credentials: Option<(String, String)>,
        /// How long tokens live.
        ttl: Duration,
    },
}

/// An [`Auth`] at work.
#[derive(Debug, Default)]
pub(super) struct Gate {
    auth: Auth,
    tokens: HashMap<String, Token>,
    issued: u64,
}

#[derive(Debug)]
struct Token {
    scope: String,
    expires: Instant,
}

/// What the token endpoint says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) token: String,
    pub(super) ttl: Duration,
}

impl Gate {
    pub(super) fn new(auth: Auth) -> Gate {
        Gate { auth, ..Gate::default() }
    }

    pub(super) fn revoke(&mut self) {
        self.tokens.clear();
    }

    /// Lets a request for `repository` pass, or says what `WWW-Authenticate` should. `realm` is the URL of the token
    /// endpoint.
    pub(super) fn check(&self, repository: &str, header: Option<&str>, realm: &str) -> Result<(), String> {
        match &self.auth {
            Auth::Anonymous => Ok(()),
            Auth::Basic { user, password } if header == Some(basic(user, password).as_str()) => Ok(()),
            Auth::Basic { .. } => Err("Basic realm=\"testkit\"".to_owned()),
            Auth::Bearer { .. } => {
                let scope = format!("repository:{repository}:pull");
                let token = header.and_then(|header| header.strip_prefix("Bearer "));
                let known = token.and_then(|token| self.tokens.get(token));
                let error = match known {
                    Some(token) if Instant::now() >= token.expires => ",error=\"invalid_token\"",
                    // A token without scope is good for `/v2/` alone.
                    Some(token)
                        if repository.is_empty() || token.scope.split(' ').any(|held| held == scope) =>
                    {
                        return Ok(());
                    }
                    Some(_) => ",error=\"insufficient_scope\"",
                    None if token.is_some() => ",error=\"invalid_token\"",
                    None => "",
                };
                let scope = if repository.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
                Err(format!("Bearer realm=\"{realm}\",service=\"testkit\"{scope}{error}"))
            }
        }
    }

    /// Hands out a token for a request to the token endpoint; `None` when the credentials are wrong. `parameters` are
    /// those of the query or of the form.
    pub(super) fn grant(&mut self, header: Option<&str>, parameters: &[(String, String)]) -> Option<Grant> {
        let Auth::Bearer { credentials, ttl } = &self.auth else { return None };
        let get = |wanted: &str| {
            parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        if let Some((user, password)) = credentials {
            let right = match get("grant_type") {
                Some("refresh_token") => get("refresh_token") == Some(password),
                Some(_) => get("username") == Some(user) && get("password") == Some(password),
                None => header == Some(basic(user, password).as_str()),
            };
            if !right {
                return None;
            }
        }
        let scopes = parameters.iter().filter(|(name, _)| name == "scope").map(|(_, value)| value.as_str());
        let scope = scopes.collect::<Vec<_>>().join(" ");
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        self.tokens.insert(token.clone(), Token { scope, expires: Instant::now() + *ttl });
        Some(Grant { token, ttl: *ttl })
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
