//! Where a key stands in the text, and what to say of a key that does nothing.

use std::path::Path;

use super::reference::{self, KEYS, When};

/// The line (from 1) of a byte of the text, and the key on that line followed by `: `.
pub fn at(text: &str, byte: usize) -> (usize, String) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let key =
        text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map_or(String::new(), |(key, _)| {
            let table = before.lines().rev().find_map(|line| line.trim().strip_prefix('['));
            let table = table.map_or("", |table| table.trim_matches(['[', ']', ' ']));
            let dot = if table.is_empty() { "" } else { "." };
            format!("{table}{dot}{}: ", key.trim())
        });
    (line, key)
}

/// What to tell the author of a file about a key that was ignored, and whether nobody knows it.
pub fn warning(text: &str, key: &str, path: &Path) -> (String, bool) {
    let at = line_of(text, key)
        .map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()));
    let known = reference::find(key).filter(|known| known.when == When::Never);
    if let Some(known) = known {
        return (format!("{at}: {key} has no effect: {}", known.text.replace('`', "")), false);
    }
    let said = match nearest(key) {
        Some(near) => format!("{at}: unknown key {key}, did you mean {near}?"),
        None => format!("{at}: unknown key {key}"),
    };
    (said, true)
}

/// The line on which the last part of a dotted key stands, looked for below its table's header.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut inside = table.is_empty();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_matches(['[', ']', ' ']);
            if header == key {
                return Some(number + 1);
            }
            inside = header == table;
        } else if inside && line.split_once('=').is_some_and(|(name, _)| name.trim() == last) {
            return Some(number + 1);
        }
    }
    None
}

/// The known key that differs in the fewest letters, if that is at most a third of them; or the one that has this name
/// in another table.
fn nearest(key: &str) -> Option<&'static str> {
    let known = || KEYS.iter().map(|key| key.name);
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let (distance, near) = known().map(|known| (distance(key, known), known)).min()?;
    if distance * 3 <= key.chars().count() {
        return Some(near);
    }
    known().find(|known| known.contains('.') && last(known) == last(key))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
