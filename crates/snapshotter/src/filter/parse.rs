//! Tokens to selectors.

use regex_lite::RegexBuilder;

use super::{
    MAX_REGEX, MAX_REGEXES, Selector, Test,
    scan::{Scanner, SyntaxError, Token},
};

/// Deepest nesting of groups in a regular expression.
const MAX_REGEX_NESTING: u32 = 50;

/// Parses one filter; an empty one has no selectors and so matches everything.
pub(super) fn selectors(filter: &str) -> Result<Vec<Selector>, SyntaxError> {
    let mut selectors = Vec::new();
    if filter.is_empty() {
        return Ok(selectors);
    }
    let mut parser = Parser { scanner: Scanner::new(filter), regexes: 0 };
    loop {
        selectors.push(parser.selector()?);
        match parser.scanner.peek() {
            None => return Ok(selectors),
            Some(',') => parser.scanner.skip(),
            Some(other) => return Err(parser.scanner.error_here(format!("unexpected {other:?}"))),
        }
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    regexes: usize,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector, SyntaxError> {
        let path = self.fieldpath()?;
        let test = match self.scanner.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn fieldpath(&mut self) -> Result<Vec<String>, SyntaxError> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Some('.') {
            self.scanner.skip();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, SyntaxError> {
        match self.scanner.field()? {
            (_, Token::Plain(name)) => Ok(name.to_owned()),
            (at, Token::Quoted { quote, text }) => double_quoted(at, quote, text),
            (at, _) => Err(SyntaxError::new(at, "expected a field name or a quoted one")),
        }
    }

    fn test(&mut self) -> Result<Test, SyntaxError> {
        let (at, operator) = match self.scanner.field()? {
            (at, Token::Operator(operator)) => (at, operator),
            (at, _) => return Err(SyntaxError::new(at, "expected an operator: ==, != or ~=")),
        };
        match operator {
            "==" => Ok(Test::Equal(self.value()?)),
            "!=" => Ok(Test::NotEqual(self.value()?)),
            "~=" => self.regex(),
            other => Err(SyntaxError::new(at, format!("unsupported operator {other:?}"))),
        }
    }

    fn value(&mut self) -> Result<String, SyntaxError> {
        match self.scanner.value()? {
            (_, Token::Plain(value)) => Ok(value.to_owned()),
            (at, Token::Quoted { quote, text }) => double_quoted(at, quote, text),
            (at, _) => Err(SyntaxError::new(at, "expected a value or a quoted one")),
        }
    }

    fn regex(&mut self) -> Result<Test, SyntaxError> {
        let (at, pattern) = match self.scanner.value()? {
            (at, Token::Plain(value)) => (at, value.to_owned()),
            (at, Token::Quoted { text, .. }) => (at, text),
            (at, _) => return Err(SyntaxError::new(at, "expected a regular expression")),
        };
        self.regexes += 1;
        if self.regexes > MAX_REGEXES {
            return Err(SyntaxError::new(at, format!("more than {MAX_REGEXES} regular expressions")));
        }
        RegexBuilder::new(&pattern)
            .size_limit(MAX_REGEX)
            .nest_limit(MAX_REGEX_NESTING)
            .build()
            .map(Test::Matches)
            .map_err(|error| SyntaxError::new(at, format!("not a regular expression: {error}")))
    }
}

/// The other quotes are for regular expressions only.
fn double_quoted(at: usize, quote: char, text: String) -> Result<String, SyntaxError> {
    match quote {
        '"' => Ok(text),
        _ => Err(SyntaxError::new(at, "only double quotes can be used here")),
    }
}
