//! What is put into the text that minijinja gets, so that texts cannot grow by operators.

use super::grammar::{behind_operand, ends_operand};
use super::tokens::Token;
use crate::expr::SyntaxError;

/// A place in the source, and what is put there.
pub(super) type Insert = (usize, &'static str);

/// A text for minijinja: the source with guards in it.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    pub(super) text: String,
    /// Where guards begin in `text`, and how long they are.
    guards: Vec<(usize, usize)>,
}

impl Guarded {
    pub(super) fn new(source: &str, inserts: &[Insert]) -> Self {
        let mut guarded = Self::default();
        let mut from = 0;
        for (at, guard) in inserts {
            guarded.text.push_str(&source[from..*at]);
            guarded.guards.push((guarded.text.len(), guard.len()));
            guarded.text.push_str(guard);
            from = *at;
        }
        guarded.text.push_str(&source[from..]);
        guarded
    }

    /// Where a byte of `text` stands in the source.
    pub(super) fn original(&self, at: usize) -> usize {
        let before = self.guards.iter().take_while(|(start, _)| *start < at);
        at - before.map(|(start, length)| (at - start).min(*length)).sum::<usize>()
    }
}

/// Guards the operands of the `*` or `+` at this place.
///
/// In Jinja `*` repeats texts and `+` joins them, so that a few words make texts of any length. A
/// power in front of the operator and two signs behind it leave numbers as they are; texts fail.
pub(super) fn guard(
    tokens: &[Token<'_>],
    at: usize,
    inserts: &mut Vec<Insert>,
) -> Result<(), SyntaxError> {
    let token = tokens[at];
    if at == 0 || !ends_operand(tokens, at - 1) {
        let message = format!("`{}` needs a number in front of it", token.text);
        return Err(SyntaxError::new(token.span(), message));
    }
    let behind = behind_operand(tokens, at + 1);
    if let Some(next) = tokens.get(behind).filter(|next| matches!(next.text, "|" | "is")) {
        let message = format!("`{}` behind `{}` needs brackets", next.text, token.text);
        return Err(SyntaxError::new(next.span(), message).hint("as in `a * (b|round)`"));
    }
    if token.text == "*" {
        inserts.push((token.start, " ** 1 "));
    }
    inserts.push((token.start + 1, " - - "));
    Ok(())
}
