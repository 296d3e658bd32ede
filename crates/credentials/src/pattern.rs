//! Which images a key of a map of credentials speaks for.
//!
//! The rules are the kubelet's, for `matchImages` as for the keys of image pull secrets: a host whose labels may be
//! globs, a port that must be equal, and a prefix of the path. Schemes and the `/v1/` and `/v2/` that docker writes
//! mean nothing, and all names of Docker Hub are one.

use std::cmp::Reverse;

use crate::credential::names_of;

/// A parsed key: `*.example.com:5000/team`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Lowercase, without the port. Each label between dots may hold `*` and `?`.
    host: String,
    /// Digits, or empty.
    port: String,
    /// Empty, or what a repository must begin with: `/team`.
    path: String,
}

impl Pattern {
    /// Reads a key; None if it names no host.
    pub fn parse(key: &str) -> Option<Pattern> {
        let rest = key.trim();
        let rest = rest.strip_prefix("https://").or_else(|| rest.strip_prefix("http://")).unwrap_or(rest);
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (host, port) = split_port(authority);
        if host.is_empty() {
            return None;
        }
        let path = match path {
            "/" | "/v1" | "/v2" => "",
            _ => path.strip_prefix("/v1").or_else(|| path.strip_prefix("/v2")).map_or(path, |rest| {
                match rest {
                    "/" => "",
                    _ if rest.starts_with('/') => rest,
                    // `/v1beta` is a path like any other.
                    _ => path,
                }
            }),
        };
        Some(Pattern { host: host.to_ascii_lowercase(), port: port.to_owned(), path: path.to_owned() })
    }

    /// Whether the key speaks for `repository` on `host`.
    pub fn matches(&self, host: &str, repository: &str) -> bool {
        self.path_matches(repository) && names_of(host).any(|name| self.host_matches(name))
    }

    /// Sorts the most specific key first: the longest path, then a plain host before a glob, then the longest
    /// host.
    pub fn rank(&self) -> impl Ord + use<> {
        let globs = self.host.contains(['*', '?']);
        (Reverse(self.path.len()), globs, Reverse(self.host.len()))
    }

    /// A plain prefix, as in the kubelet: `/team` also speaks for `team-b/x`.
    fn path_matches(&self, repository: &str) -> bool {
        match self.path.strip_prefix('/') {
            Some(prefix) => repository.starts_with(prefix),
            None => true,
        }
    }

    fn host_matches(&self, authority: &str) -> bool {
        let (host, port) = split_port(authority);
        if port != self.port {
            return false;
        }
        let host = host.to_ascii_lowercase();
        let mut labels = host.split('.');
        let mut globs = self.host.split('.');
        loop {
            match (globs.next(), labels.next()) {
                (None, None) => return true,
                (Some(glob), Some(label)) if glob_matches(glob.as_bytes(), label.as_bytes()) => {}
                _ => return false,
            }
        }
    }
}

/// The host and the port of `host:port`; the port is empty if there is none. Knows addresses in brackets.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (authority, ""),
    }
}

/// `*` is any number of bytes, `?` is one. Takes at most the product of both lengths.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: one byte more for that `*`.
    let mut retry = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g + 1, t));
                g += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, taken)) => {
                    g = after_star;
                    t = taken + 1;
                    retry = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_speak_for_images() {
        #[track_caller]
        fn check(key: &str, yes: &[(&str, &str)], no: &[(&str, &str)]) {
            let pattern = Pattern::parse(key).unwrap();
            for (host, repository) in yes {
                assert!(pattern.matches(host, repository), "{key} {host}/{repository}");
            }
            for (host, repository) in no {
                assert!(!pattern.matches(host, repository), "{key} {host}/{repository}");
            }
        }
        check("reg.io", &[("reg.io", "a/b"), ("REG.io", "a")], &[("reg.io:443", "a"), ("x.reg.io", "a")]);
        check("https://reg.io/v2/", &[("reg.io", "a/b")], &[]);
        check("http://reg.io:5000", &[("reg.io:5000", "a/b")], &[("reg.io", "a"), ("reg.io:50", "a")]);
        check(
            "reg.io/team",
            &[("reg.io", "team/a"), ("reg.io", "team")],
            &[("reg.io", "tea/m"), ("reg.io", "a")],
        );
        check("reg.io/v1/team", &[("reg.io", "team/a")], &[("reg.io", "v1/team")]);
        check("reg.io/v1beta", &[("reg.io", "v1beta/a")], &[("reg.io", "beta/a")]);
        check(
            "*.dkr.ecr.*.amazonaws.com",
            &[("1.dkr.ecr.eu.amazonaws.com", "a")],
            &[("1.2.dkr.ecr.eu.amazonaws.com", "a"), ("dkr.ecr.eu.amazonaws.com", "a")],
        );
        check("app*.k8s.io", &[("app.k8s.io", "a"), ("app-2.k8s.io", "a")], &[("ap.k8s.io", "a")]);
        check("?.b*d.*", &[("x.bcd.io", "a"), ("x.bd.io", "a")], &[("xx.bcd.io", "a"), ("x.bc.io", "a")]);
        let hub = [("docker.io", "library/x"), ("index.docker.io", "a/b"), ("registry-1.docker.io", "a/b")];
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "*.docker.io"] {
            check(key, &hub, &[("docker.com", "library/x")]);
        }
        check("[::1]:5000", &[("[::1]:5000", "a")], &[("[::1]", "a"), ("[::2]:5000", "a")]);
        check("localhost:5000/", &[("localhost:5000", "a")], &[("localhost", "a")]);
    }

    #[test]
    fn no_host_is_no_key() {
        for key in ["", " ", "/a", "https://", "https:///v1/", ":5000"] {
            assert_eq!(Pattern::parse(key), None, "{key:?}");
        }
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let order = ["reg.io/team/app", "reg.io/team", "reg.io", "*.reg.io", "*.io"];
        let mut sorted: Vec<_> = order.iter().rev().map(|key| Pattern::parse(key).unwrap()).collect();
        sorted.sort_by_key(Pattern::rank);
        assert_eq!(sorted, order.map(|key| Pattern::parse(key).unwrap()));
    }

    proptest::proptest! {
        #[test]
        fn globs_are_what_they_say(glob in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn naive(glob: &[u8], text: &[u8]) -> bool {
                match (glob.split_first(), text.split_first()) {
                    (None, _) => text.is_empty(),
                    (Some((b'*', rest)), _) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
                    (Some((g, glob)), Some((t, text))) => (*g == b'?' || g == t) && naive(glob, text),
                    (Some(_), None) => false,
                }
            }
            proptest::prop_assert_eq!(
                glob_matches(glob.as_bytes(), text.as_bytes()),
                naive(glob.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_key_is_read(key in ".{0,40}", host in ".{0,40}") {
            if let Some(pattern) = Pattern::parse(&key) {
                pattern.matches(&host, &key);
            }
        }
    }

    #[test]
    fn globs_take_little_time() {
        assert!(!glob_matches(&b"*a".repeat(1000), &b"a".repeat(500)));
    }
}
