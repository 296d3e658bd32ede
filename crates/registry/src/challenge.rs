//! `WWW-Authenticate` challenges (RFC 9110, section 11.6.1), read from hostile headers.

/// Parameters kept of one challenge; more are skipped.
const MAX_PARAMS: usize = 16;
/// Challenges kept of one header; more are skipped.
const MAX_CHALLENGES: usize = 8;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme in lowercase: `basic`, `bearer`.
    pub scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of parameter `name` (lowercase).
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of one header value. What does not follow the grammar is skipped, not refused:
/// servers are sloppy here, and a challenge that lost its parameters fails later with a clear reason.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut cursor = Cursor { rest: header };
    let mut challenges = Vec::new();
    while challenges.len() < MAX_CHALLENGES {
        cursor.skip(|c| c == ',' || is_space(c));
        if cursor.rest.is_empty() {
            break;
        }
        match cursor.token() {
            "" => cursor.skip_one(),
            scheme => challenges
                .push(Challenge { scheme: scheme.to_ascii_lowercase(), params: params(&mut cursor) }),
        }
    }
    challenges
}

/// Reads `name=value` pairs until the header ends or a name without `=` shows that the next challenge begins.
fn params(cursor: &mut Cursor<'_>) -> Vec<(String, String)> {
    let mut params = Vec::new();
    loop {
        cursor.skip(|c| c == ',' || is_space(c));
        let before_name = cursor.rest;
        let name = cursor.token();
        cursor.skip(is_space);
        if name.is_empty() || !cursor.rest.starts_with('=') {
            cursor.rest = before_name;
            return params;
        }
        // More than one `=` is the padding of a token68, which no scheme supported here uses.
        cursor.skip(|c| c == '=');
        cursor.skip(is_space);
        let value = cursor.value();
        if params.len() < MAX_PARAMS {
            params.push((name.to_ascii_lowercase(), value));
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, what: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(what);
    }

    fn skip_one(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn token(&mut self) -> &'a str {
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// A quoted string, or everything up to the next comma or space: unquoted URLs occur.
    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find(|c| c == ',' || is_space(c)).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return value.to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                _ => value.push(c),
            }
        }
        self.rest = chars.as_str();
        value
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests;
