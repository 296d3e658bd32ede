//! Characters to tokens.

use std::str::Chars;

/// What is wrong with a filter, and from which byte on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Offset into the filter, at a character boundary.
    pub(super) at: usize,
    pub(super) message: String,
}

impl SyntaxError {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A field name or a value as it stands.
    Plain(&'a str),
    /// Text with its escapes resolved.
    Quoted {
        quote: char,
        text: String,
    },
    /// A run of operator characters, not always an operator.
    Operator(&'a str),
    /// Anything else.
    Other,
    End,
}

/// A position in a filter.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    input: &'a str,
    rest: Chars<'a>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, rest: input.chars() }
    }

    pub(super) fn error_here(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.position(), message)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    pub(super) fn skip(&mut self) {
        self.rest.next();
    }

    /// The next token where a field or an operator is expected, and where it begins.
    pub(super) fn field(&mut self) -> Result<(usize, Token<'a>), SyntaxError> {
        self.token(
            |first| first == '_' || first.is_ascii_alphanumeric(),
            |next| next == '_' || next.is_ascii_alphanumeric(),
        )
    }

    /// The next token where a value is expected, and where it begins.
    pub(super) fn value(&mut self) -> Result<(usize, Token<'a>), SyntaxError> {
        self.token(|_| true, |next| next != ',' && !next.is_whitespace() && !next.is_control())
    }

    fn token(
        &mut self,
        starts: fn(char) -> bool,
        goes_on: fn(char) -> bool,
    ) -> Result<(usize, Token<'a>), SyntaxError> {
        self.take_while(char::is_whitespace);
        let at = self.position();
        let token = match self.peek() {
            None => Token::End,
            Some('\0') => return Err(SyntaxError::new(at, "unexpected null character")),
            Some(quote @ ('"' | '/' | '|')) => Token::Quoted { quote, text: self.quoted(at, quote)? },
            Some(',' | '.') => Token::Other,
            Some(first) if is_operator(first) => Token::Operator(self.take_while(is_operator)),
            Some(first) if starts(first) => {
                self.skip();
                self.take_while(goes_on);
                Token::Plain(&self.input[at..self.position()])
            }
            Some(_) => Token::Other,
        };
        Ok((at, token))
    }

    /// Text up to the closing `quote`; a line end in it is an error, like an unknown escape.
    fn quoted(&mut self, at: usize, quote: char) -> Result<String, SyntaxError> {
        let unclosed = || SyntaxError::new(at, "quoted text is not closed");
        self.skip();
        let mut text = Vec::new();
        loop {
            match self.rest.next().ok_or_else(unclosed)? {
                '\n' | '\0' => return Err(unclosed()),
                '\\' => self.escape(at, quote, &mut text)?,
                end if end == quote => break,
                other => push(&mut text, other),
            }
        }
        String::from_utf8(text).map_err(|_| SyntaxError::new(at, "quoted text is not utf-8"))
    }

    /// The escapes of a Go string: `\x` and octal ones give bytes, `\u` and `\U` characters.
    fn escape(&mut self, at: usize, quote: char, text: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let illegal = || SyntaxError::new(at, "illegal escape in quoted text");
        let first = self.rest.next().ok_or_else(illegal)?;
        match first {
            'a' => text.push(0x07),
            'b' => text.push(0x08),
            'f' => text.push(0x0c),
            'n' => text.push(b'\n'),
            'r' => text.push(b'\r'),
            't' => text.push(b'\t'),
            'v' => text.push(0x0b),
            '\\' => text.push(b'\\'),
            same if same == quote => push(text, quote),
            'x' => {
                text.push(u8::try_from(self.digits(0, 2, 16).ok_or_else(illegal)?).map_err(|_| illegal())?)
            }
            'u' => push(text, character(self.digits(0, 4, 16)).ok_or_else(illegal)?),
            'U' => push(text, character(self.digits(0, 8, 16)).ok_or_else(illegal)?),
            '0'..='7' => {
                let value = self.digits(first as u32 - '0' as u32, 2, 8).ok_or_else(illegal)?;
                text.push(u8::try_from(value).map_err(|_| illegal())?);
            }
            _ => return Err(illegal()),
        }
        Ok(())
    }

    /// Appends `count` digits to `value`; at most eight hexadecimal ones fit.
    fn digits(&mut self, value: u32, count: usize, radix: u32) -> Option<u32> {
        (0..count).try_fold(value, |value, _| {
            let digit = self.rest.next()?.to_digit(radix)?;
            value.checked_mul(radix)?.checked_add(digit)
        })
    }

    fn take_while(&mut self, belongs: fn(char) -> bool) -> &'a str {
        let from = self.position();
        while self.peek().is_some_and(belongs) {
            self.skip();
        }
        &self.input[from..self.position()]
    }

    fn position(&self) -> usize {
        self.input.len() - self.rest.as_str().len()
    }
}

fn is_operator(character: char) -> bool {
    matches!(character, '=' | '!' | '~')
}

/// The character with that number; half of a surrogate pair becomes the replacement character, as in Go.
fn character(number: Option<u32>) -> Option<char> {
    match number? {
        0xd800..=0xdfff => Some(char::REPLACEMENT_CHARACTER),
        number => char::from_u32(number),
    }
}

fn push(text: &mut Vec<u8>, character: char) {
    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}
