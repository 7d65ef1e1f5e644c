//! What can be wrong with an expression.

use std::fmt;

/// Bytes of the source, from `start` up to but not including `end`.
///
/// Spans say where, not what: two trees that differ only in spans are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// The byte behind the last.
    pub end: u32,
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Span {}

impl Span {
    pub(super) fn to(self, end: Self) -> Self {
        Self { start: self.start, end: end.end }
    }
}

macro_rules! located_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            /// What is wrong, as a sentence without a full stop.
            pub message: String,
            /// Where.
            pub span: Span,
            /// What to do about it.
            pub hint: Option<String>,
        }

        impl $name {
            pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
                Self { message: message.into(), span, hint: None }
            }

            pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
                self.hint = Some(hint.into());
                self
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at column {}: {}", self.span.start + 1, self.message)?;
                match &self.hint {
                    Some(hint) => write!(f, " ({hint})"),
                    None => Ok(()),
                }
            }
        }

        impl std::error::Error for $name {}
    };
}

located_error! {
    /// A text that is not an expression. Prints with the column, counted in bytes from 1.
    SyntaxError
}
located_error! {
    /// An expression that has no value. Prints with the column, counted in bytes from 1.
    EvalError
}
located_error! {
    /// An expression that cannot have a value, known before it is evaluated.
    TypeError
}
