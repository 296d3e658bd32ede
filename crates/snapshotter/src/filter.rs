//! containerd's filter syntax: which snapshots a List wants.
//!
//! A filter is a comma separated list of selectors, all of which must match; of several filters one must match.
//!
//! ```text
//! selector  := fieldpath [ operator value ]      without operator: the field is present
//! fieldpath := field { "." field }
//! field     := [A-Za-z0-9_]+ | "quoted"
//! operator  := "==" | "!=" | "~="                ~= searches for a regular expression
//! value     := characters but comma and space | "quoted"; after ~= also /quoted/ or |quoted|
//! ```
//!
//! Fields are `kind`, `name`, `parent` and `labels.KEY`. Quoted text has the escapes of a Go string. Input is
//! hostile: its size is bounded before it is read, and regular expressions run in linear time.

mod parse;
mod scan;
#[cfg(test)]
mod tests;

use regex_lite::Regex;

use crate::{Error, store::Info};

/// Most filters in one request.
const MAX_FILTERS: usize = 64;

/// Longest filter, in bytes: a selector for the longest label there may be, escaped, and one for the longest name.
const MAX_FILTER: usize = 64 * 1024;

/// Most regular expressions in one request: they, unlike all else, take more memory than their text.
const MAX_REGEXES: usize = 32;

/// Most memory for one compiled regular expression, in bytes.
const MAX_REGEX: usize = 256 * 1024;

/// Says of each snapshot whether it is wanted.
#[derive(Debug)]
pub(crate) struct Filters(Vec<Vec<Selector>>);

/// One condition.
#[derive(Debug)]
struct Selector {
    /// Never empty.
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Parses all filters of a request; none at all, like an empty one, matches everything.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, Error> {
        if filters.len() > MAX_FILTERS {
            let given = filters.len();
            return Err(Error::InvalidArgument(format!("{given} filters given, more than {MAX_FILTERS}")));
        }
        let parsed: Vec<_> = filters.iter().map(|filter| parse_one(filter)).collect::<Result<_, _>>()?;
        let regexes = parsed.iter().flatten().filter(|selector| matches!(selector.test, Test::Matches(_)));
        if regexes.count() > MAX_REGEXES {
            return Err(Error::InvalidArgument(format!("more than {MAX_REGEXES} regular expressions given")));
        }
        Ok(Self(parsed))
    }

    /// Whether any filter matches `info`.
    pub(crate) fn matches(&self, info: &Info) -> bool {
        let all = |selectors: &Vec<Selector>| selectors.iter().all(|selector| selector.matches(info));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Selector {
    /// A field that is absent has an empty value, but equals nothing.
    fn matches(&self, info: &Info) -> bool {
        let found = field(info, &self.path);
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(value) => found == Some(value),
            Test::NotEqual(value) => found.unwrap_or_default() != value,
            Test::Matches(regex) => regex.is_match(found.unwrap_or_default()),
        }
    }
}

/// The value of a field; name and parent are present even if empty, as in containerd.
fn field<'a>(info: &'a Info, path: &[String]) -> Option<&'a str> {
    match path.first()?.as_str() {
        "kind" => Some(info.kind.as_str()),
        "name" => Some(&info.name),
        "parent" => Some(&info.parent),
        "labels" => info.labels.get(&path[1..].join(".")).map(String::as_str),
        _ => None,
    }
}

fn parse_one(filter: &str) -> Result<Vec<Selector>, Error> {
    if filter.len() > MAX_FILTER {
        return Err(Error::InvalidArgument(format!(
            "a filter takes {} bytes, more than {MAX_FILTER}",
            filter.len()
        )));
    }
    parse::selectors(filter).map_err(|error| {
        let (before, after) = filter.split_at(error.at);
        Error::InvalidArgument(format!("cannot parse filter {before:?} >>> {after:?}: {}", error.message))
    })
}
