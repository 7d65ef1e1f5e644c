//! Filters, tests and functions of our own, with limits.

use std::borrow::Cow;

use minijinja::filters as jinja;
use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};

use super::output::{plain_json, text_of};
use crate::expr::RESULT_BYTES_MAX;

/// Numbers that `range` gives: what a text of some pages can list.
const RANGE_MAX: usize = 1_000;
/// Spaces by which `indent` and `tojson` indent.
const INDENT_MAX: usize = 32;

pub(super) fn wrong(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn too_long(filter: &str) -> Error {
    wrong(format!("`{filter}` makes a text of more than {RESULT_BYTES_MAX} bytes"))
}

pub(super) fn range(first: i64, end: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, Error> {
    let (mut at, end) = end.map_or((0, first), |end| (first, end));
    let step = step.unwrap_or(1);
    let mut numbers = Vec::new();
    while if step >= 0 { at < end } else { at > end } {
        if numbers.len() == RANGE_MAX {
            return Err(wrong(format!("`range` gives more than {RANGE_MAX} numbers")));
        }
        numbers.push(at);
        match at.checked_add(step) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(numbers)
}

/// `map('upper')` or `map(attribute='name')`: with more arguments every item could become a copy of
/// something large.
pub(super) fn map(
    state: &mut State<'_, '_>,
    list: Value,
    filter: Option<&str>,
    kwargs: Kwargs,
) -> Result<Vec<Value>, Error> {
    let mut made = Vec::new();
    let attribute = kwargs.get::<Option<String>>("attribute")?;
    kwargs.assert_all_used()?;
    let filter = match (filter, attribute) {
        (Some(filter), None) => filter,
        (None, Some(path)) => {
            for item in list.try_iter()? {
                made.push(path.split('.').try_fold(item, |value, name| value.get_attr(name))?);
            }
            return Ok(made);
        }
        _ => return Err(wrong("`map` takes the name of a filter, or attribute='...'")),
    };
    let mut left = RESULT_BYTES_MAX;
    for item in list.try_iter()? {
        let value = state.apply_filter(filter, &[item])?;
        let length = value.as_str().map_or(0, str::len);
        left = left.checked_sub(length).ok_or_else(|| too_long("map"))?;
        made.push(value);
    }
    Ok(made)
}

pub(super) fn trim(text: Cow<'_, str>) -> String {
    text.trim().to_owned()
}

pub(super) fn replace(
    text: Cow<'_, str>,
    from: Cow<'_, str>,
    to: Cow<'_, str>,
) -> Result<String, Error> {
    // A search is prepared in time of what is searched for.
    if from.len() > text.len() {
        return Ok(text.into_owned());
    }
    let count = text.matches(&*from).count();
    let length = text.len().saturating_add(count.saturating_mul(to.len()));
    if length > RESULT_BYTES_MAX.max(text.len()) && to.len() > from.len() {
        return Err(too_long("replace"));
    }
    Ok(text.replace(&*from, &to))
}

pub(super) fn join(list: Value, separator: Option<Cow<'_, str>>) -> Result<String, Error> {
    let separator = separator.unwrap_or_default();
    let mut joined = String::new();
    for (at, item) in list.try_iter()?.enumerate() {
        let text = text_of(&item)?;
        let separator = if at == 0 { "" } else { &*separator };
        if joined.len() + separator.len() + text.len() > RESULT_BYTES_MAX {
            return Err(too_long("join"));
        }
        joined.push_str(separator);
        joined.push_str(&text);
    }
    Ok(joined)
}

pub(super) fn split(text: &str, separator: Option<&str>) -> Vec<String> {
    match separator {
        None | Some("") => text.split_whitespace().map(Into::into).collect(),
        Some(separator) if separator.len() > text.len() => vec![text.into()],
        Some(separator) => text.split(separator).map(Into::into).collect(),
    }
}

pub(super) fn indent(
    text: Cow<'_, str>,
    width: Option<usize>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => width,
        None => kwargs.get::<Option<usize>>("width")?.unwrap_or(4),
    };
    let first = kwargs.get::<Option<bool>>("first")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    if width > INDENT_MAX {
        return Err(wrong(format!("`indent` takes at most {INDENT_MAX} spaces")));
    }
    let space = " ".repeat(width);
    let mut indented = String::new();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        if (at > 0 || first) && !line.trim().is_empty() {
            indented.push_str(&space);
        }
        indented.push_str(line);
        if indented.len() > RESULT_BYTES_MAX.max(text.len()) {
            return Err(too_long("indent"));
        }
    }
    Ok(indented)
}

pub(super) fn string(value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let text = text_of(value)?;
    if text.len() > RESULT_BYTES_MAX {
        return Err(too_long("string"));
    }
    Ok(Value::from(text))
}

pub(super) fn tojson(
    value: &Value,
    indent: Option<usize>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<usize>>("indent")?,
    };
    kwargs.assert_all_used()?;
    let json = plain_json(value)?;
    let spaces = " ".repeat(indent.unwrap_or_default().min(INDENT_MAX));
    let text = match indent {
        None => json.to_string(),
        Some(_) => {
            let mut text = Vec::new();
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
            serde::Serialize::serialize(&json, &mut writer).map_err(|e| wrong(e.to_string()))?;
            String::from_utf8(text).map_err(|error| wrong(error.to_string()))?
        }
    };
    if text.len() > RESULT_BYTES_MAX {
        return Err(too_long("tojson"));
    }
    Ok(text)
}

/// minijinja's own panics for 0.
pub(super) fn is_divisible_by(value: i128, by: i128) -> Result<bool, Error> {
    let rest = value.checked_rem(by);
    rest.map(|rest| rest == 0).ok_or_else(|| wrong(format!("{value} cannot be divided by {by}")))
}

/// Sums begin with 0, so that only numbers can be added.
pub(super) fn sum(state: &State<'_, '_>, list: Value, kwargs: Kwargs) -> Result<Value, Error> {
    if kwargs.has("start") {
        return Err(wrong("`sum` begins with 0"));
    }
    jinja::sum(state, list, None, None, kwargs)
}

pub(super) fn int(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
) -> Result<Value, Error> {
    jinja::int(state, value, default, None, Kwargs::from_iter([] as [(&str, Value); 0]))
}

pub(super) fn round(value: Value, precision: Option<i32>) -> Result<Value, Error> {
    let precision = precision.map(|precision| precision.clamp(-18, 18));
    jinja::round(value, precision, None, Kwargs::from_iter([] as [(&str, Value); 0]))
}
