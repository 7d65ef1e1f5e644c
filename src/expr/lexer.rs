//! From text to words.

use super::SOURCE_BYTES_MAX;
use super::error::{Span, SyntaxError};
use crate::value::Json;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a word operator.
    Word(String),
    Text(String),
    Number(Json),
    Percent(f64),
    /// Seconds.
    Duration(f64),
    /// Punctuation and symbol operators.
    Symbol(&'static str),
    End,
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Text(_) => "a text".into(),
            Self::Number(_) | Self::Percent(_) => "a number".into(),
            Self::Duration(_) => "a length of time".into(),
            Self::Symbol(symbol) => format!("`{symbol}`"),
            Self::End => "the end".into(),
        }
    }
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 21] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "(", ")", "[", "]", ",",
    ".", "=", "&",
];

pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Span)>, SyntaxError> {
    if text.len() > SOURCE_BYTES_MAX {
        let message =
            format!("the expression has {} bytes; the limit is {SOURCE_BYTES_MAX}", text.len());
        return Err(SyntaxError::new(Span::default(), message));
    }
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip(char::is_whitespace);
        let start = lexer.at;
        let token = lexer.next()?;
        let end = token == Token::End;
        tokens.push((token, lexer.span(start)));
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Token, SyntaxError> {
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token::End);
        };
        if first.is_alphabetic() || first == '_' {
            return Ok(Token::Word(self.skip(|c| c.is_alphanumeric() || c == '_').to_string()));
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '"' || first == '\'' {
            return self.quoted(first);
        }
        for symbol in SYMBOLS {
            if self.rest().starts_with(symbol) {
                let start = self.at;
                self.at += symbol.len();
                return match symbol {
                    "=" => Err(self.error(start, "`=` is no operator").hint("write `==`")),
                    "&" => Err(self.error(start, "`&` is no operator").hint("write `and`")),
                    _ => Ok(Token::Symbol(symbol)),
                };
            }
        }
        let start = self.at;
        self.at += first.len_utf8();
        Err(self.error(start, format!("{first:?} has no meaning here")))
    }

    /// `12`, `1_000`, `0.5`, `1e9`, `80%`, `5m`, `1h30m`.
    fn number(&mut self) -> Result<Token, SyntaxError> {
        let start = self.at;
        self.skip(|c| c.is_ascii_digit() || c == '_');
        let mut rest = self.rest().chars();
        if rest.next() == Some('.') && rest.next().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.skip(|c| c.is_ascii_digit() || c == '_');
        }
        if let Some(exponent) = exponent(self.rest()) {
            self.at += exponent;
        }
        let digits: String = self.text[start..self.at].chars().filter(|c| *c != '_').collect();
        let invalid = |lexer: &Self| {
            lexer.error(start, format!("`{}` is not a number", &lexer.text[start..lexer.at]))
        };
        if self.rest().starts_with('%') {
            self.at += 1;
            let number: f64 = digits.parse().map_err(|_| invalid(self))?;
            return if number.is_finite() {
                Ok(Token::Percent(number))
            } else {
                Err(invalid(self))
            };
        }
        if self.rest().starts_with(|c: char| c.is_alphabetic() || c == '_') {
            self.skip(|c| c.is_alphanumeric() || c == '.');
            return match crate::time::parse_duration(&self.text[start..self.at]) {
                // Whole milliseconds are what can be printed back.
                Ok(length) if length.subsec_nanos() % 1_000_000 != 0 => {
                    Err(self.error(start, "a length of time has whole milliseconds here"))
                }
                Ok(length) => Ok(Token::Duration(length.as_millis() as f64 / 1000.0)),
                Err(error) => Err(self.error(start, error.to_string())),
            };
        }
        if let Ok(number) = digits.parse::<i64>() {
            return Ok(Token::Number(number.into()));
        }
        match digits.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => Ok(Token::Number(Json::Number(number))),
            None => Err(invalid(self)),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Token, SyntaxError> {
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        while let Some(c) = self.rest().chars().next() {
            self.at += c.len_utf8();
            if c == quote {
                return Ok(Token::Text(text));
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some(escaped) = self.rest().chars().next() else {
                break;
            };
            self.at += escaped.len_utf8();
            text.push(match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' | '"' | '\'' => escaped,
                _ => {
                    let message = format!("`\\{escaped}` is no escape");
                    let hint = "write \\\\ for a backslash";
                    return Err(self.error(self.at - escaped.len_utf8() - 1, message).hint(hint));
                }
            });
        }
        Err(self.error(start, "this text has no end").hint(format!("add a {quote}")))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn span(&self, start: usize) -> Span {
        Span { start: start as u32, end: self.at as u32 }
    }

    fn error(&self, start: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.span(start), message)
    }
}

/// The length of `e9`, `E-3` at the beginning of a text.
fn exponent(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(['e', 'E'])?;
    let sign = usize::from(rest.starts_with(['+', '-']));
    let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some(1 + sign + digits)
}
