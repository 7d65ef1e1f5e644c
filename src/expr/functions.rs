//! The functions of the language: names, and how many arguments each takes.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::RESULT_BYTES_MAX;
use super::error::{EvalError, Span};
use super::eval::{kind, numbers, owned_number};
use crate::time::Timestamp;
use crate::value::{Json, weigh};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Len,
    Exists,
    Default,
    Lower,
    Upper,
    Number,
    String,
    Time,
    Now,
    Min,
    Max,
    Abs,
    Round,
}

impl Function {
    pub(super) const ALL: [(&'static str, Self, usize, usize); 13] = [
        ("len", Self::Len, 1, 1),
        ("exists", Self::Exists, 1, 1),
        ("default", Self::Default, 2, 2),
        ("lower", Self::Lower, 1, 1),
        ("upper", Self::Upper, 1, 1),
        ("number", Self::Number, 1, 1),
        ("string", Self::String, 1, 1),
        ("time", Self::Time, 1, 1),
        ("now", Self::Now, 0, 0),
        ("min", Self::Min, 1, 64),
        ("max", Self::Max, 1, 64),
        ("abs", Self::Abs, 1, 1),
        ("round", Self::Round, 1, 1),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, function, ..)| *function == self).map_or("", |(name, ..)| name)
    }
}

/// The value of a function that takes its arguments evaluated.
pub(super) fn apply(
    function: Function,
    arguments: &[Cow<'_, Json>],
    span: Span,
) -> Result<Json, EvalError> {
    let Some(first) = arguments.first() else {
        return Ok(Json::Null);
    };
    let wrong = |wanted: &str| {
        let message = format!("`{}` takes {wanted}, not {}", function.name(), kind(first));
        EvalError::new(span, message)
    };
    let number = || first.as_f64().ok_or_else(|| wrong("a number"));
    match function {
        Function::Len => match &**first {
            Json::String(text) => Ok(text.chars().count().into()),
            Json::Array(items) => Ok(items.len().into()),
            Json::Object(fields) => Ok(fields.len().into()),
            _ => Err(wrong("a text, a list or an object")),
        },
        Function::Lower => {
            first.as_str().map(|t| t.to_lowercase().into()).ok_or_else(|| wrong("a text"))
        }
        Function::Upper => {
            first.as_str().map(|t| t.to_uppercase().into()).ok_or_else(|| wrong("a text"))
        }
        Function::Number => {
            read_number(first, span).ok_or_else(|| wrong("a number or a text of one"))
        }
        Function::String => Ok(match &**first {
            Json::String(text) => text.clone().into(),
            other => {
                // As text every value takes a byte at least.
                let fits = weigh(other, RESULT_BYTES_MAX).is_ok();
                let text = if fits { other.to_string() } else { String::new() };
                if !fits || text.len() > RESULT_BYTES_MAX {
                    let message = format!("makes a text of more than {RESULT_BYTES_MAX} bytes");
                    return Err(EvalError::new(span, message));
                }
                text.into()
            }
        }),
        Function::Time => {
            let text = first.as_str().ok_or_else(|| wrong("a text like 2026-03-29T01:00:00Z"))?;
            let at: Timestamp = text
                .parse()
                .map_err(|error: crate::time::TimeError| EvalError::new(span, error.to_string()))?;
            owned_number(at.as_micros() as f64 / 1e6, span).map(Cow::into_owned)
        }
        Function::Min | Function::Max => extreme(function, arguments, span),
        Function::Abs => match first.as_i64().and_then(i64::checked_abs) {
            Some(whole) => Ok(whole.into()),
            None => owned_number(number()?.abs(), span).map(Cow::into_owned),
        },
        Function::Round => match first.as_i64() {
            Some(whole) => Ok(whole.into()),
            None => owned_number(number()?.round(), span).map(Cow::into_owned),
        },
        // These see their arguments unevaluated, or have none.
        Function::Exists | Function::Default | Function::Now => Ok(Json::Null),
    }
}

fn read_number(value: &Json, span: Span) -> Option<Json> {
    match value {
        Json::Number(_) => Some(value.clone()),
        Json::String(text) => {
            let text = text.trim();
            if let Ok(whole) = text.parse::<i64>() {
                return Some(whole.into());
            }
            let number: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().ok()?;
            owned_number(number, span).ok().map(Cow::into_owned)
        }
        _ => None,
    }
}

fn extreme(function: Function, arguments: &[Cow<'_, Json>], span: Span) -> Result<Json, EvalError> {
    let list: Vec<&Json> = match arguments {
        [only] => match &**only {
            Json::Array(items) => items.iter().collect(),
            other => vec![other],
        },
        several => several.iter().map(|argument| &**argument).collect(),
    };
    let mut best: Option<&serde_json::Number> = None;
    for item in list {
        let Json::Number(number) = item else {
            let message = format!("`{}` takes numbers, not {}", function.name(), kind(item));
            return Err(EvalError::new(span, message));
        };
        let wanted = if function == Function::Min { Ordering::Less } else { Ordering::Greater };
        if best.is_none_or(|best| numbers(number, best) == Some(wanted)) {
            best = Some(number);
        }
    }
    Ok(best.map_or(Json::Null, |number| Json::Number(number.clone())))
}
