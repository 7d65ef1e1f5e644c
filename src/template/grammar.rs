//! Which of a tag's tokens are values, operands, literals and paths.

use std::ops::Range;

use super::tokens::{Kind, Token, span};
use crate::expr::Span;

/// A name and the fields behind it that are written out.
pub(super) struct Path<'a> {
    pub(super) name: &'a str,
    pub(super) fields: Vec<&'a str>,
    pub(super) span: Span,
    /// Whether a bracket follows as for a call.
    pub(super) is_called: bool,
}

/// Words that are no names of values.
const WORDS: [&str; 16] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "elif",
    "else",
    "for",
    "true",
    "True",
    "false",
    "False",
    "none",
    "None",
    "recursive",
];
/// Those among them that are values.
const CONSTANTS: [&str; 6] = ["true", "True", "false", "False", "none", "None"];

/// Where in `for x in list if condition` the list begins, and where the condition does.
pub(super) fn head_of_for(tokens: &[Token<'_>]) -> (usize, usize) {
    let list = tokens.iter().position(|token| token.text == "in").map_or(1, |at| at + 1);
    let mut at = list;
    while at < tokens.len() {
        if tokens[at].text == "if" && !matches!(before(tokens, at), "." | "|") {
            return (list, at);
        }
        at = behind_one(tokens, at);
    }
    (list, tokens.len())
}

pub(super) fn before<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    at.checked_sub(1).map_or("", |at| tokens[at].text)
}

pub(super) fn sign<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).filter(|token| token.kind == Kind::Sign).map_or("", |token| token.text)
}

/// Whether this is the name behind `is` or `is not`.
pub(super) fn is_test(tokens: &[Token<'_>], at: usize) -> bool {
    let word = |at: usize, word: &str| {
        let is_word = tokens.get(at).is_some_and(|t| t.kind == Kind::Name && t.text == word);
        is_word && !matches!(before(tokens, at), "." | "|")
    };
    let is = |at: Option<usize>| at.is_some_and(|at| word(at, "is"));
    let negated = is(at.checked_sub(2)) && word(at - 1, "not");
    (is(at.checked_sub(1)) && tokens[at].text != "not") || negated
}

/// Whether this names a value: no word of the language, field, filter, test or argument's name.
pub(super) fn is_variable(tokens: &[Token<'_>], at: usize) -> bool {
    let token = tokens[at];
    let is_name = token.kind == Kind::Name && !WORDS.contains(&token.text);
    let is_part = matches!(before(tokens, at), "." | "|") || is_test(tokens, at);
    is_name && !is_part && sign(tokens, at + 1) != "="
}

pub(super) fn ends_operand(tokens: &[Token<'_>], at: usize) -> bool {
    let token = tokens[at];
    match token.kind {
        Kind::Sign => matches!(token.text, ")" | "]" | "}"),
        Kind::Number | Kind::Text => true,
        Kind::Name => {
            let is_word = WORDS.contains(&token.text) && !CONSTANTS.contains(&token.text);
            !is_word || matches!(before(tokens, at), "." | "|")
        }
    }
}

/// The list, object or tuple that begins here.
pub(super) fn literal(tokens: &[Token<'_>], at: usize) -> Option<Range<usize>> {
    let follows = at > 0 && ends_operand(tokens, at - 1);
    let is_literal = match sign(tokens, at) {
        "[" | "{" => !follows,
        "(" => !follows && directly_inside(tokens, at, ",") > 0,
        _ => false,
    };
    is_literal.then(|| at..behind_one(tokens, at))
}

/// How often a sign stands in these brackets, not counting brackets inside.
pub(super) fn directly_inside(tokens: &[Token<'_>], open: usize, wanted: &str) -> usize {
    let (mut at, end, mut count) = (open + 1, behind_one(tokens, open), 0);
    while at < end {
        count += usize::from(sign(tokens, at) == wanted);
        at = behind_one(tokens, at);
    }
    count
}

/// Behind this token; behind the closing bracket, if it opens one.
pub(super) fn behind_one(tokens: &[Token<'_>], from: usize) -> usize {
    let mut open = 0_usize;
    for at in from..tokens.len() {
        match sign(tokens, at) {
            "(" | "[" | "{" => open += 1,
            ")" | "]" | "}" => open = open.saturating_sub(1),
            _ => {}
        }
        if open == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Behind a value with its sign, fields and calls; filters and powers are not part of it.
pub(super) fn behind_operand(tokens: &[Token<'_>], mut at: usize) -> usize {
    while sign(tokens, at) == "-" {
        at += 1;
    }
    at = behind_one(tokens, at);
    loop {
        match sign(tokens, at) {
            "." => at += 2,
            "[" | "(" => at = behind_one(tokens, at),
            _ => return at,
        }
    }
}

pub(super) fn path<'a>(tokens: &[Token<'a>], start: usize) -> Path<'a> {
    let mut fields = Vec::new();
    let mut at = start + 1;
    loop {
        let field = |at: usize, kind| tokens.get(at).filter(|token| token.kind == kind);
        match sign(tokens, at) {
            "." if let Some(name) = field(at + 1, Kind::Name) => {
                fields.push(name.text);
                at += 2;
            }
            "[" if sign(tokens, at + 2) == "]"
                && let Some(name) = field(at + 1, Kind::Text)
                && !name.text.contains('\\') =>
            {
                fields.push(&name.text[1..name.text.len() - 1]);
                at += 3;
            }
            _ => break,
        }
    }
    let last = &tokens[at.min(tokens.len()) - 1];
    Path {
        name: tokens[start].text,
        fields,
        span: span(tokens[start].start, last.start + last.text.len()),
        is_called: sign(tokens, at) == "(",
    }
}
