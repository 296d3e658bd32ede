//! Lists of files, by names and patterns.

use std::collections::HashSet;

/// The longest pattern, in bytes: that of a path.
const PATTERN_MAX: usize = 4096;

/// Patterns, one to a line, the most wanted first.
///
/// `*` is anything within a name, `?` any character of it, `[a-z]` and `[!a-z]` one of a set or none of it, `**` any number
/// of directories; `\` takes the meaning from what follows. Blank lines and those that begin with `#` do not count, nor
/// does a leading `/`.
#[derive(Clone, Debug, Default)]
pub struct List(Vec<Pattern>);

/// A list cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the list: {problem}")]
pub struct ListError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// One pattern of a [`List`].
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Vec<Component>);

#[derive(Clone, Debug)]
enum Component {
    /// `**`.
    Any,
    Name(Vec<Token>),
}

#[derive(Clone, Debug)]
enum Token {
    Literal(char),
    /// `?`.
    One,
    /// `*`.
    Many,
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl List {
    /// Reads a list.
    ///
    /// # Errors
    /// [`ListError`], for the first line that is no pattern.
    pub fn parse(text: &str) -> Result<List, ListError> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let patterns = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let parsed =
            patterns.map(|(line, text)| Pattern::parse(text).map_err(|problem| ListError { line, problem }));
        Ok(List(parsed.collect::<Result<_, _>>()?))
    }

    /// The paths that the list names, each once: in the order of the list, and those of one pattern in that of `paths`.
    /// `paths` are relative to the root.
    pub fn select<'a>(&self, paths: &[&'a str]) -> Vec<&'a str> {
        let (mut selected, mut known) = (Vec::new(), HashSet::new());
        for pattern in &self.0 {
            let matching = paths.iter().filter(|path| pattern.matches(path));
            selected.extend(matching.filter(|path| known.insert(**path)));
        }
        selected
    }
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Pattern, &'static str> {
        if text.len() > PATTERN_MAX {
            return Err("the pattern is longer than 4096 bytes");
        }
        let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
        let components = names.map(|name| match name {
            ".." => Err("a pattern cannot lead out of a directory (..)"),
            "**" => Ok(Component::Any),
            name => Ok(Component::Name(tokens(name)?)),
        });
        Ok(Pattern(components.collect::<Result<_, _>>()?))
    }

    /// Whether a path, relative to the root, is meant. Takes time in the order of the product of both lengths.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let names: Vec<Vec<char>> =
            path.split('/').filter(|name| !name.is_empty()).map(|name| name.chars().collect()).collect();
        sequence(
            &self.0,
            &names,
            |component| matches!(component, Component::Any),
            |component, name| match component {
                Component::Any => true,
                Component::Name(tokens) => {
                    sequence(tokens, name, |token| matches!(token, Token::Many), |token, c| token.takes(*c))
                }
            },
        )
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Token::Literal(literal) => *literal == c,
            Token::One | Token::Many => true,
            Token::Set { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
        }
    }
}

/// Whether all of `items` are taken by `pattern`, in which a `many` takes any number of them. In the product of their
/// lengths: remembers, for each prefix of the items, whether the pattern so far takes it.
fn sequence<P, I>(
    pattern: &[P],
    items: &[I],
    many: impl Fn(&P) -> bool,
    takes: impl Fn(&P, &I) -> bool,
) -> bool {
    let mut reached = vec![false; items.len() + 1];
    reached[0] = true;
    for part in pattern {
        if many(part) {
            for at in 0..items.len() {
                reached[at + 1] |= reached[at];
            }
        } else {
            for at in (0..items.len()).rev() {
                reached[at + 1] = reached[at] && takes(part, &items[at]);
            }
            reached[0] = false;
        }
    }
    reached[items.len()]
}

fn tokens(name: &str) -> Result<Vec<Token>, &'static str> {
    let (mut tokens, mut rest) = (Vec::new(), name.chars());
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Many,
            '?' => Token::One,
            '\\' => Token::Literal(rest.next().ok_or("nothing follows the last backslash")?),
            '[' => set(&mut rest)?,
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

/// What follows a `[`.
fn set(rest: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "a set is not closed; write \\[ for a bracket";
    let negated = rest.as_str().starts_with(['!', '^']);
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let first = match rest.next().ok_or(OPEN)? {
            ']' if !ranges.is_empty() => return Ok(Token::Set { negated, ranges }),
            '\\' => rest.next().ok_or(OPEN)?,
            c => c,
        };
        let mut ahead = rest.clone();
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) if last != ']' => {
                *rest = ahead;
                if last == '\\' { rest.next().ok_or(OPEN)? } else { last }
            }
            _ => first,
        };
        if first > last {
            return Err("a range of characters ends before it begins");
        }
        ranges.push((first, last));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_names() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("/usr/bin/ls", &["usr/bin/ls"], &["usr/bin/lsof", "ls"]),
            ("*.so", &["a.so", ".so"], &["d/a.so", "a.so.1"]),
            ("usr/**/*.py", &["usr/a.py", "usr/lib/x/a.py"], &["a.py", "usr/lib/a.pyc"]),
            ("**", &["a", "a/b"], &[]),
            ("**/b", &["b", "a/b", "a/c/b"], &["b/a"]),
            ("a?c", &["abc", "aéc"], &["ac", "a/c"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "-x"], &["ax"]),
            ("[]-]x", &["]x", "-x"], &["ax"]),
            ("\\[a\\*", &["[a*"], &["[ab"]),
            ("lib**x", &["libfoox", "libx"], &["lib/x"]),
            ("**/a/**", &["x/a/y"], &["x/b/y"]),
            ("lib*.so.?", &["libc.so.6"], &["libc.so.60"]),
            ("*a*a*a*a*a*a*a*a*b", &[], &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]),
        ];
        for (pattern, matching, others) in rows {
            let list = List::parse(pattern).unwrap();
            assert_eq!(list.select(matching), *matching, "{pattern}");
            assert!(list.select(others).is_empty(), "{pattern}: {:?}", list.select(others));
        }
    }

    #[test]
    fn the_order_is_that_of_the_list_and_nothing_comes_twice() {
        let list = List::parse("# first\n\n b/* \n./a\nb/2\n").unwrap();
        assert_eq!(list.select(&["a", "b/1", "b/2", "c"]), ["b/1", "b/2", "a"]);
    }

    #[test]
    fn what_is_no_pattern_is_named_with_its_line() {
        for (text, line) in [("a\n[b", 2), ("a\\", 1), ("\n\n../x", 3), ("[z-a]", 1)] {
            assert_eq!(List::parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in "[a*?\\[\\]/\\\\!\n-]{0,40}", path in "[a/]{0,12}") {
            if let Ok(list) = List::parse(&text) {
                prop_assert!(list.select(&[&path]).len() <= 1);
            }
        }
    }
}
