//! What comes out of minijinja: texts, and values as JSON.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde_json::Number;

use super::closed::Closed;
use super::functions::wrong;
use super::{VALUE_BYTES_MAX, measure};
use crate::expr::RESULT_BYTES_MAX;
use crate::value::{Json, NESTING_MAX};

/// A name that no template can write: where the value of a whole-value template is put.
pub(super) const SLOT: &str = "\0value";

/// Takes the value of the one hole.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Value>>);

impl Slot {
    fn slot(&self) -> MutexGuard<'_, Option<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Value> {
        self.slot().take()
    }
}

impl Object for Slot {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// How a hole is filled.
pub(super) fn fill(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if let Some(slot) = state.lookup(SLOT)
        && let Some(slot) = slot.downcast_object_ref::<Slot>()
    {
        *slot.slot() = Some(value.clone());
        return Ok(());
    }
    // What `if` without `else` gives: nothing.
    if value.is_undefined() {
        return Ok(());
    }
    out.write_str(&text_of(value)?).map_err(Error::from)
}

/// A value as text: a text as it is, everything else as JSON.
pub(super) fn text_of(value: &Value) -> Result<Cow<'_, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => plain_json(value).map(|json| Cow::Owned(json.to_string())),
    }
}

/// A value that goes into a text: secrets and references are refused.
pub(super) fn plain_json(value: &Value) -> Result<Json, Error> {
    Reader { left: VALUE_BYTES_MAX, may_be_closed: false }.read(value, 1)
}

/// A value that is handed on: secrets and references go with it as they are.
pub(super) fn json(value: &Value) -> Result<Json, Error> {
    Reader { left: VALUE_BYTES_MAX, may_be_closed: true }.read(value, 1)
}

struct Reader {
    left: usize,
    may_be_closed: bool,
}

impl Reader {
    fn read(&mut self, value: &Value, depth: usize) -> Result<Json, Error> {
        if depth > NESTING_MAX {
            return Err(wrong(format!("makes a value that nests deeper than {NESTING_MAX}")));
        }
        self.pay(value.as_str().unwrap_or_default())?;
        if let Some(closed) = value.downcast_object_ref::<Closed>() {
            if !self.may_be_closed {
                return Err(wrong(closed.refusal().to_owned()));
            }
            self.pay(&closed.json().to_string())?;
            return Ok(closed.json().clone());
        }
        match value.kind() {
            ValueKind::None => Ok(Json::Null),
            ValueKind::Bool => Ok(value.is_true().into()),
            ValueKind::Number => number(value),
            ValueKind::String => Ok(value.as_str().unwrap_or_default().into()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut list = Vec::new();
                for item in value.try_iter()? {
                    list.push(self.read(&item, depth + 1)?);
                }
                Ok(list.into())
            }
            ValueKind::Map => {
                let mut fields = serde_json::Map::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    let key = text_of(&key)?.into_owned();
                    self.pay(&key)?;
                    fields.insert(key, self.read(&item, depth + 1)?);
                }
                Ok(fields.into())
            }
            ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
            other => Err(wrong(format!("a value of kind {other} is no JSON"))),
        }
    }

    fn pay(&mut self, text: &str) -> Result<(), Error> {
        match self.left.checked_sub(measure(text)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(wrong(format!("makes a value of more than {VALUE_BYTES_MAX} bytes"))),
        }
    }
}

fn number(value: &Value) -> Result<Json, Error> {
    if value.is_integer() {
        let signed = value.as_i64().map(Json::from);
        let whole = signed.or_else(|| u64::try_from(value.clone()).ok().map(Json::from));
        return whole.ok_or_else(|| wrong("the result is too large for a whole number"));
    }
    let number = f64::try_from(value.clone()).ok().and_then(Number::from_f64);
    number.map(Json::Number).ok_or_else(|| wrong("the result is too large for a number"))
}

/// The text, up to [`RESULT_BYTES_MAX`].
#[derive(Default)]
pub(super) struct Bounded {
    pub(super) bytes: Vec<u8>,
    pub(super) is_over: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > RESULT_BYTES_MAX {
            self.is_over = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
