//! The tags of a template, and what stands in them.
//!
//! minijinja parses by recursion and keeps its lexer to itself; limits have to hold before it begins.
//! This reads the same language or less of it, and cuts it at the same places: what is strange, such
//! as `1.` or `0x1F`, is refused rather than guessed.

use super::{DEPTH_MAX, TAG_TOKENS_MAX};
use crate::expr::{Span, SyntaxError};

/// What stands between `{{` and `}}`, or `{%` and `%}`.
pub(super) struct Tag<'a> {
    pub(super) is_block: bool,
    pub(super) span: Span,
    pub(super) tokens: Vec<Token<'a>>,
}

#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) start: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Number,
    /// With its quotes.
    Text,
    Sign,
}

impl Token<'_> {
    pub(super) fn span(&self) -> Span {
        span(self.start, self.start + self.text.len())
    }
}

pub(super) fn span(start: usize, end: usize) -> Span {
    let byte = |at| u32::try_from(at).unwrap_or(u32::MAX);
    Span { start: byte(start), end: byte(end) }
}

/// All tags, and whether nothing but white space stands around them.
pub(super) fn read(source: &str) -> Result<(Vec<Tag<'_>>, bool), SyntaxError> {
    let (mut tags, mut alone, mut at) = (Vec::new(), true, 0);
    while let Some((start, mark)) = next_tag(source, at) {
        alone &= source[at..start].trim().is_empty();
        let control = matches!(source.as_bytes().get(start + 2), Some(b'-' | b'+'));
        let inside = start + 2 + usize::from(control);
        let open = span(start, start + 2);
        at = match mark {
            b'#' => match source[inside..].find("#}") {
                Some(length) => inside + length + 2,
                None => return Err(SyntaxError::new(open, "`{#` is not closed by `#}`")),
            },
            b'%' if let Some(raw) = basic_tag(&source[inside..], "raw") => {
                alone = false;
                end_of_raw(source, inside + raw, open)?
            }
            _ => {
                let close = if mark == b'%' { "%}" } else { "}}" };
                let mut lexer = Lexer { source, at: inside, open: Vec::new() };
                let tokens = lexer.tag(close, open)?;
                tags.push(Tag { is_block: mark == b'%', span: open, tokens });
                lexer.at
            }
        };
    }
    alone &= source[at..].trim().is_empty();
    Ok((tags, alone))
}

fn next_tag(source: &str, from: usize) -> Option<(usize, u8)> {
    let pairs = source.as_bytes()[from..].windows(2).enumerate();
    let mut marks = pairs.filter(|(_, pair)| pair[0] == b'{' && b"{%#".contains(&pair[1]));
    marks.next().map(|(at, pair)| (from + at, pair[1]))
}

/// The length of a tag that is only this word, from behind its `{%`; none if it is another.
fn basic_tag(text: &str, word: &str) -> Option<usize> {
    let space = |c: char| c.is_ascii_whitespace();
    let rest = text.trim_start_matches(space).strip_prefix(word)?.trim_start_matches(space);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

fn end_of_raw(source: &str, mut at: usize, open: Span) -> Result<usize, SyntaxError> {
    while let Some(found) = source[at..].find("{%") {
        at += found + 2;
        let rest = &source[at..];
        let inside = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if let Some(length) = basic_tag(inside, "endraw") {
            return Ok(at + rest.len() - inside.len() + length);
        }
    }
    Err(SyntaxError::new(open, "`{% raw %}` is not closed by `{% endraw %}`"))
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// Brackets that are open, with where.
    open: Vec<(u8, usize)>,
}

impl<'a> Lexer<'a> {
    fn tag(&mut self, close: &str, open: Span) -> Result<Vec<Token<'a>>, SyntaxError> {
        let mut tokens = Vec::new();
        loop {
            let rest = &self.source[self.at..];
            let trimmed = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            self.at += rest.len() - trimmed.len();
            let controlled = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
            for (text, control) in [(trimmed, 0), (controlled, 1)] {
                if self.open.is_empty() && text.starts_with(close) {
                    self.at += control + close.len();
                    return Ok(tokens);
                }
            }
            let Some(first) = trimmed.bytes().next() else {
                let (what, span) = match self.open.last() {
                    Some((bracket, at)) => (char::from(*bracket).into(), span(*at, *at + 1)),
                    None => (self.source[open.start as usize..open.end as usize].into(), open),
                };
                let what: String = what;
                return Err(SyntaxError::new(span, format!("`{what}` is not closed")));
            };
            if tokens.len() == TAG_TOKENS_MAX {
                let message = format!("more than {TAG_TOKENS_MAX} words and signs in one tag");
                return Err(SyntaxError::new(open, message));
            }
            let (kind, length) = self.token(first, trimmed)?;
            tokens.push(Token { kind, text: &trimmed[..length], start: self.at });
            self.at += length;
        }
    }

    fn token(&mut self, first: u8, rest: &str) -> Result<(Kind, usize), SyntaxError> {
        match first {
            b'\'' | b'"' => self.text(first, rest).map(|length| (Kind::Text, length)),
            b'0'..=b'9' => self.number(rest).map(|length| (Kind::Number, length)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Ok((Kind::Name, word(rest))),
            b'(' | b'[' | b'{' => {
                if self.open.len() == DEPTH_MAX {
                    return Err(self.wrong(1, &format!("more than {DEPTH_MAX} brackets open")));
                }
                self.open.push((first, self.at));
                Ok((Kind::Sign, 1))
            }
            b')' | b']' | b'}' => {
                let wanted = self.open.pop().map(|(open, _)| open);
                let pairs = [(b'(', b')'), (b'[', b']'), (b'{', b'}')];
                if !pairs.iter().any(|(open, close)| Some(*open) == wanted && *close == first) {
                    return Err(self.wrong(1, "closes nothing that is open"));
                }
                Ok((Kind::Sign, 1))
            }
            _ => {
                let long = ["//", "**", "==", "!=", ">=", "<="];
                if long.iter().any(|sign| rest.starts_with(sign)) {
                    return Ok((Kind::Sign, 2));
                }
                if b"+-*/%.,:~|=><".contains(&first) {
                    return Ok((Kind::Sign, 1));
                }
                Err(self.wrong(rest.chars().next().map_or(1, char::len_utf8), "is no sign here"))
            }
        }
    }

    fn text(&self, quote: u8, rest: &str) -> Result<usize, SyntaxError> {
        let mut escaped = false;
        for (at, byte) in rest.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                _ if byte == quote => return Ok(at + 1),
                _ => {}
            }
        }
        Err(self.wrong(1, "begins a text that does not end"))
    }

    fn number(&self, rest: &str) -> Result<usize, SyntaxError> {
        let digits = |from: usize| {
            let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'_';
            rest.as_bytes()[from..].iter().take_while(|byte| digit(byte)).count()
        };
        let starts_digit = |at: usize| rest.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        let mut end = digits(0);
        // As in `list.1.name`: an index has no fraction.
        let is_index = self.source.as_bytes()[..self.at].last() == Some(&b'.');
        if !is_index {
            if rest[end..].starts_with('.') && starts_digit(end + 1) {
                end += 1 + digits(end + 1);
            }
            if rest[end..].starts_with(['e', 'E']) {
                let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
                if starts_digit(end + 1 + sign) {
                    end += 1 + sign + digits(end + 1 + sign);
                }
            }
        }
        let follows = rest.as_bytes().get(end);
        let glued = follows.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'.');
        let index_goes_on = is_index && follows == Some(&b'.');
        if rest[..end].ends_with('_') || (glued && !index_goes_on) {
            return Err(self.wrong(end + usize::from(glued), "is no number"));
        }
        Ok(end)
    }

    fn wrong(&self, length: usize, what: &str) -> SyntaxError {
        let end = self.at + length;
        let text = self.source.get(self.at..end).unwrap_or_default();
        SyntaxError::new(span(self.at, end), format!("`{text}` {what}"))
    }
}

fn word(rest: &str) -> usize {
    rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}
