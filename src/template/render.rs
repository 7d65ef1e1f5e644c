//! minijinja, with limits on everything.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::context::{Context, Wanted};
use super::functions::wrong;
use super::guard::Guarded;
use super::output::{self, Bounded, SLOT, Slot};
use super::tokens::span;
use super::{DEPTH_MAX, FUEL, filters};
use crate::expr::{EvalError, RESULT_BYTES_MAX, Scope, Span, SyntaxError};
use crate::value::Json;

const NAME: &str = "template";
/// Letters of what minijinja says: it may quote a value.
const MESSAGE_CHARS_MAX: usize = 500;
/// Bytes of values for which [`FUEL`] is meant.
const FUEL_BYTES: usize = 64 * 1024;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    // A text keeps its last line break. Without delimiters of our own this cannot fail.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        env.set_syntax(syntax);
    }
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_formatter(output::fill);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(2 * DEPTH_MAX);
    // So that errors name what is undefined, and where.
    env.set_debug(true);
    filters::add_to(&mut env);
    env
});

/// A template as minijinja keeps it.
pub(super) struct Compiled {
    guarded: Guarded,
    /// Whether it is one hole and nothing else.
    is_value: bool,
    env: Environment<'static>,
}

impl Compiled {
    pub(super) fn new(guarded: Guarded, is_value: bool) -> Result<Self, SyntaxError> {
        let mut env = ENVIRONMENT.clone();
        let added = shielded(|| env.add_template_owned(NAME, guarded.text.clone()));
        match added {
            Ok(()) => Ok(Self { guarded, is_value, env }),
            Err(error) => Err(SyntaxError::new(place(&guarded, &error), describe(&error, FUEL))),
        }
    }

    pub(super) fn run(&self, wanted: &Wanted, scope: &dyn Scope) -> Result<Json, EvalError> {
        let mut context = Context::new(wanted, scope)
            .map_err(|message| EvalError::new(Span::default(), message))?;
        let fuel = FUEL * FUEL_BYTES as u64 / context.bytes.max(FUEL_BYTES) as u64;
        let values = std::mem::take(&mut context.values);
        let mut out = Bounded::default();
        let result = shielded(|| self.render(values, fuel, &mut out));
        let span = result.as_ref().err().map(|error| place(&self.guarded, error));
        let span = span.unwrap_or_default();
        if let Some(refusal) = context.refusal.get() {
            return Err(EvalError::new(span, refusal.as_str()));
        }
        result.map_err(|error| {
            if out.is_over {
                let message = format!("makes a text of more than {RESULT_BYTES_MAX} bytes");
                return EvalError::new(span, message);
            }
            let message = describe(&error, fuel);
            let absent = context.absent.iter().find(|(name, _)| names(&message, name));
            EvalError::new(span, absent.map_or(message.as_str(), |(_, why)| why))
        })
    }

    fn render(
        &self,
        mut values: BTreeMap<String, Value>,
        fuel: u64,
        out: &mut Bounded,
    ) -> Result<Json, Error> {
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let slot = Value::from_object(Slot::default());
        if self.is_value {
            values.insert(SLOT.into(), slot.clone());
        }
        let template = env.get_template(NAME)?;
        drop(template.render_captured_to(Value::from(values), &mut *out)?);
        if !self.is_value {
            let text = String::from_utf8(std::mem::take(&mut out.bytes));
            return text.map(Json::from).map_err(|error| wrong(error.to_string()));
        }
        let value = slot.downcast_object_ref::<Slot>().and_then(Slot::take);
        output::json(&value.unwrap_or_default())
    }
}

/// What is known to panic in minijinja is not offered. Should there be more, one template fails, and
/// not the engine.
fn shielded<T>(f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let panicked = |_| Err(wrong("the template engine failed on this template"));
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(panicked)
}

fn place(guarded: &Guarded, error: &Error) -> Span {
    let range = error.range().unwrap_or_default();
    span(guarded.original(range.start), guarded.original(range.end))
}

fn describe(error: &Error, fuel: u64) -> String {
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("takes more than {fuel} operations"),
        ErrorKind::UndefinedError if detail.is_empty() => "reads what is not there".into(),
        // A sign or a power that is not in the source, but guards an operator that is.
        ErrorKind::InvalidOperation if detail.is_empty() || detail.contains("** operator") => {
            "`+`, `-`, `*` and `**` take numbers; texts are put together by holes side by side"
                .into()
        }
        _ if detail.is_empty() => error.kind().to_string(),
        _ => detail.chars().take(MESSAGE_CHARS_MAX).collect(),
    }
}

/// Whether a message says that this root or step is undefined.
fn names(message: &str, name: &str) -> bool {
    let before = message.find("` is undefined").map(|end| &message[..end]);
    let Some((_, path)) = before.and_then(|before| before.rsplit_once('`')) else { return false };
    let path = path
        .strip_prefix("steps")
        .map_or(path, |path| path.trim_start_matches(['.', '[', '\'', '"']));
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    path.strip_prefix(name).is_some_and(|rest| !rest.starts_with(goes_on))
}
