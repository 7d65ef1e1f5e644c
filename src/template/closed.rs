//! Values that templates hand on, but cannot look into.

use std::fmt;
use std::sync::{Arc, OnceLock};

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr};

use crate::value::Json;

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Sealed,
    Blob,
}

impl Kind {
    pub(super) fn of(fields: &serde_json::Map<String, Json>) -> Option<Self> {
        if fields.contains_key("$blob") {
            return Some(Self::Blob);
        }
        (fields.len() == 1 && fields.contains_key("$sealed")).then_some(Self::Sealed)
    }
}

/// A value that templates hand on, but cannot look into: a secret, or a reference to a large value.
pub(super) struct Closed {
    json: Json,
    message: String,
    refusal: Arc<OnceLock<String>>,
}

impl Closed {
    pub(super) fn value(
        kind: Kind,
        json: &Json,
        place: &impl fmt::Display,
        refusal: &Arc<OnceLock<String>>,
    ) -> Value {
        let what = match kind {
            Kind::Sealed => "is a secret, which",
            Kind::Blob => "is kept outside the journal for its size, and",
        };
        let message = format!(
            "`{place}` {what} cannot be put into a text; map it as an input of its own, alone"
        );
        Value::from_object(Self { json: json.clone(), message, refusal: Arc::clone(refusal) })
    }

    pub(super) fn json(&self) -> &Json {
        &self.json
    }

    /// Why it cannot be read; from now on the evaluation fails with this.
    pub(super) fn refusal(&self) -> &str {
        self.refusal.get_or_init(|| self.message.clone())
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed")
    }
}

impl Object for Closed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        let _ = self.refusal();
        None
    }

    /// Called by whatever turns values into text without asking.
    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = self.refusal();
        Ok(())
    }
}
