//! What is known of the value of one hole alone, before anything runs.

use super::filters;
use super::grammar::{behind_one, behind_operand, is_variable, path, sign};
use super::tokens::{Kind, Token};
use crate::expr::{Expr, Type, TypeError, TypeScope};

/// What the value of a template is known by.
pub(super) enum Gives {
    /// Its type, whatever the names stand for.
    Type(Type),
    /// A path, which means the same in an expression, and where in the template it begins.
    Path(Expr, u32),
}

impl Gives {
    /// What one hole alone gives.
    pub(super) fn of(source: &str, tokens: &[Token<'_>]) -> Self {
        match tokens {
            [] => Self::Type(Type::Any),
            [only] if !is_name(tokens) => Self::Type(of_word(only)),
            _ => Self::path(source, tokens).unwrap_or_else(|| Self::Type(of_filter(tokens))),
        }
    }

    fn path(source: &str, tokens: &[Token<'_>]) -> Option<Self> {
        let last = tokens.last()?;
        let span = path(tokens, 0).span;
        if !is_name(tokens) || span.end != last.span().end {
            return None;
        }
        let text = source.get(span.start as usize..span.end as usize)?;
        Expr::parse(text).ok().map(|expr| Self::Path(expr, span.start))
    }

    pub(super) fn check(&self, types: &dyn TypeScope) -> Result<Type, Vec<TypeError>> {
        match self {
            Self::Type(known) => Ok(known.clone()),
            Self::Path(expr, start) => expr.check(types).map_err(|mut errors| {
                for error in &mut errors {
                    error.span.start += start;
                    error.span.end += start;
                }
                errors
            }),
        }
    }
}

/// Whether the first word is a root or a step.
fn is_name(tokens: &[Token<'_>]) -> bool {
    is_variable(tokens, 0) && !filters::GLOBALS.contains(&tokens[0].text)
}

fn of_word(word: &Token<'_>) -> Type {
    match (word.kind, word.text) {
        (Kind::Number, _) => Type::Number,
        (Kind::Text, _) => Type::Text,
        (Kind::Name, "true" | "True" | "false" | "False") => Type::Boolean,
        (Kind::Name, "none" | "None" | "null") => Type::Null,
        _ => Type::Any,
    }
}

/// What the last filter of `operand|filter|filter` makes.
fn of_filter(tokens: &[Token<'_>]) -> Type {
    let mut found = Type::Any;
    let mut at = behind_operand(tokens, 0);
    while at < tokens.len() {
        let Some(name) = tokens.get(at + 1).filter(|_| sign(tokens, at) == "|") else {
            return Type::Any;
        };
        let is_called = sign(tokens, at + 2) == "(";
        found = filters::makes(name.text, is_called);
        at = if is_called { behind_one(tokens, at + 2) } else { at + 2 };
    }
    found
}
