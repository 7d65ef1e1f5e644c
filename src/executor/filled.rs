//! Texts with inputs in them, and where an input may be a secret.

use crate::value::Json;

/// A text with each `{name}` replaced by what `write` makes of it, once: what an input says is not
/// looked at again. What it makes nothing of stays.
pub(super) fn fill<E>(
    template: &str,
    mut write: impl FnMut(&str) -> Result<Option<String>, E>,
) -> Result<String, E> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        rest = after;
        if let Some((name, after)) = after.split_once('}')
            && let Some(text) = write(name)?
        {
            filled.push_str(&text);
            rest = after;
        } else {
            filled.push('{');
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// A value as people write it: text without quotes.
pub(super) fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

#[cfg(any(feature = "shell", feature = "request"))]
pub(super) use secrets::{Filled, filled, without_secrets};

#[cfg(feature = "request")]
pub(super) use secrets::opened;

#[cfg(any(feature = "shell", feature = "request"))]
mod secrets {
    use super::{fill, text};
    use crate::error::{ErrorClass, StepError};
    use crate::executor::ExecutionContext;
    use crate::value::{Json, is_sealed};

    /// A text of a configuration with inputs in it.
    pub(in crate::executor) struct Filled {
        pub(in crate::executor) text: String,
        /// Whether a secret is in it.
        #[cfg_attr(not(feature = "request"), expect(dead_code, reason = "headers only"))]
        pub(in crate::executor) is_secret: bool,
    }

    /// A text of the configuration with each `{name}` replaced by that input, opened if it is sealed.
    pub(in crate::executor) fn filled(
        ctx: &ExecutionContext,
        place: &str,
        template: &str,
    ) -> Result<Filled, StepError> {
        let mut is_secret = false;
        let text = fill(template, |name| match ctx.inputs().get(name) {
            Some(sealed) if is_sealed(sealed) => {
                is_secret = true;
                open(ctx, name, sealed).map(Some)
            }
            Some(value) if holds_secret(value) => Err(wrong(format!(
                "`{place}`: input `{name}` has a secret inside; take that secret itself as an input"
            ))),
            Some(value) => Ok(Some(text(value))),
            // A wrong name would else be sent as it stands, in place of a secret.
            None if is_name(name) => Err(wrong(format!(
                "`{place}`: the step has no input `{name}`; add it to the step's inputs"
            ))),
            None => Ok(None),
        })?;
        Ok(Filled { text, is_secret })
    }

    /// A value with every secret in it opened.
    #[cfg(feature = "request")]
    pub(in crate::executor) fn opened(
        ctx: &ExecutionContext,
        place: &str,
        value: &Json,
    ) -> Result<Json, StepError> {
        let mut opened = value.clone();
        let mut left = vec![&mut opened];
        while let Some(value) = left.pop() {
            if is_sealed(value) {
                *value = Json::from(open(ctx, place, value)?);
                continue;
            }
            match value {
                Json::Array(items) => left.extend(items),
                Json::Object(fields) => left.extend(fields.values_mut()),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
            }
        }
        Ok(opened)
    }

    /// Refuses an input with a secret in it, for a place that others can read.
    pub(in crate::executor) fn without_secrets(
        input: &str,
        value: &Json,
        why: &str,
    ) -> Result<(), StepError> {
        if holds_secret(value) {
            return Err(wrong(format!("input `{input}` is or holds a secret, and {why}")));
        }
        Ok(())
    }

    fn holds_secret(value: &Json) -> bool {
        let mut left = vec![value];
        while let Some(value) = left.pop() {
            match value {
                sealed if is_sealed(sealed) => return true,
                Json::Array(items) => left.extend(items),
                Json::Object(fields) => left.extend(fields.values()),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
            }
        }
        false
    }

    /// Whether braces around it can only be meant to name an input.
    fn is_name(text: &str) -> bool {
        let letter = |c: char| c.is_alphabetic() || c == '_';
        text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_numeric() || c == '-')
    }

    fn wrong(message: String) -> StepError {
        StepError::new(ErrorClass::Configuration, message)
    }

    #[cfg(feature = "secrets")]
    fn open(ctx: &ExecutionContext, input: &str, sealed: &Json) -> Result<String, StepError> {
        Ok(ctx.open(input, sealed)?.expose().to_string())
    }

    #[cfg(not(feature = "secrets"))]
    fn open(_: &ExecutionContext, input: &str, _: &Json) -> Result<String, StepError> {
        Err(wrong(format!("secret `{input}`: secrets need the feature `secrets`")))
    }
}
