//! Patterns of paths as shells know them: `*`, `?`, `[a-z]`, and `**` for any number of directories.

/// A pattern.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    parts: Vec<Vec<char>>,
}

/// Whether a text is more than a path.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

impl Glob {
    pub fn new(pattern: &str) -> Glob {
        let parts = pattern.split('/').filter(|part| !part.is_empty() && *part != ".");
        Glob { parts: parts.map(|part| part.chars().collect()).collect() }
    }

    /// Whether a normal path, without `/` at its start, is meant. Takes time in the order of the product of both lengths.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<Vec<char>> = path.split('/').map(|part| part.chars().collect()).collect();
        // Which beginnings of the path the pattern has matched so far, by the number of their parts.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            let mut next = vec![false; path.len() + 1];
            if part == &['*', '*'] {
                let mut any = false;
                for (number, was) in reached.iter().enumerate() {
                    any |= was;
                    next[number] = any;
                }
            } else {
                for (number, name) in path.iter().enumerate() {
                    next[number + 1] = reached[number] && matches_name(part, name);
                }
            }
            reached = next;
        }
        reached[path.len()]
    }
}

/// With one place to come back to, which suffices as a later `*` can take over whatever an earlier one gave up.
fn matches_name(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut got) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while got < name.len() {
        if pattern.get(at) == Some(&'*') {
            back = Some((at, got));
            at += 1;
        } else if let Some(next) = one(pattern, at, name[got]) {
            (at, got) = (next, got + 1);
        } else if let Some((star, taken)) = back {
            (at, got) = (star + 1, taken + 1);
            back = Some((star, taken + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|left| *left == '*')
}

/// Where the pattern goes on if what is at `at` matches this character.
fn one(pattern: &[char], at: usize, character: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => match class(&pattern[at + 1..], character) {
            Some((length, matches)) => matches.then_some(at + 1 + length),
            // One that does not end stands for itself.
            None => (character == '[').then_some(at + 1),
        },
        '\\' if at + 1 < pattern.len() => (pattern[at + 1] == character).then_some(at + 2),
        other => (*other == character).then_some(at + 1),
    }
}

/// How long the class is, with its bracket, and whether it has the character.
fn class(rest: &[char], character: char) -> Option<(usize, bool)> {
    let inverted = matches!(rest.first(), Some('!' | '^'));
    let start = usize::from(inverted);
    // A bracket that comes first is one of the characters.
    let end = start + 1 + rest.get(start + 1..)?.iter().position(|it| *it == ']')?;
    let mut found = false;
    let mut at = start;
    while at < end {
        if at + 2 < end && rest[at + 1] == '-' {
            found |= (rest[at]..=rest[at + 2]).contains(&character);
            at += 3;
        } else {
            found |= rest[at] == character;
            at += 1;
        }
    }
    Some((end + 1, found != inverted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_shells() {
        let rows = [
            ("usr/bin/*", "usr/bin/python3", true),
            ("usr/bin/*", "usr/bin/a/b", false),
            ("/usr/**/*.so", "usr/lib/x/y.so", true),
            ("usr/**/*.so", "usr/y.so", true),
            ("**/a/**", "x/a/y", true),
            ("**", "any/thing", true),
            ("lib*.so.?", "libc.so.6", true),
            ("lib*.so.?", "libc.so.60", false),
            ("[a-c]x[!0-9]", "bxy", true),
            ("[a-c]x[!0-9]", "bx7", false),
            ("[]x]", "]", true),
            ("a[", "a[", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("", "x", false),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(Glob::new(pattern).matches(path), expected, "{pattern} {path}");
        }
    }
}
