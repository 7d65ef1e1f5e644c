//! The value of an expression.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Number;

use super::ast::{Arithmetic, Ast, Compare, Comparison, Path, Root, Segment};
use super::error::{EvalError, Span};
use super::functions::Function;
use super::parser::regex;
use super::{Aspect, COPIED_MAX, FUEL, RESULT_BYTES_MAX};
use crate::error::nearest;
use crate::time::Timestamp;
use crate::value::{Json, NESTING_MAX, TooBig, is_blob, weigh};

/// What names stand for while an expression is evaluated.
pub trait Scope {
    /// The time that `now()` gives.
    fn now(&self) -> Timestamp;

    /// The value of one of the [`ROOTS`](super::ROOTS); none when it does not exist here.
    fn root(&self, name: &str) -> Option<Cow<'_, Json>>;

    /// A step that can be seen from here.
    fn step(&self, id: &str) -> Option<StepView<'_>>;
}

/// What an expression can see of a step.
#[derive(Clone, Debug)]
pub struct StepView<'a> {
    /// What has become of it.
    pub status: &'a str,
    /// Its output; null when it has none.
    pub output: &'a Json,
    /// Why it failed; null when it did not.
    pub error: Cow<'a, Json>,
}

type Eval<'a> = Result<Cow<'a, Json>, EvalError>;

pub(super) fn evaluate(ast: &Ast, scope: &dyn Scope) -> Result<Json, EvalError> {
    Evaluation { scope, fuel: FUEL, copied: 0 }.value(ast).map(Cow::into_owned)
}

pub(super) fn is_true(ast: &Ast, scope: &dyn Scope) -> Result<bool, EvalError> {
    Evaluation { scope, fuel: FUEL, copied: 0 }.truth(ast)
}

struct Evaluation<'a> {
    scope: &'a dyn Scope,
    fuel: u32,
    /// Values copied into lists so far.
    copied: usize,
}

impl<'a> Evaluation<'a> {
    fn value(&mut self, ast: &'a Ast) -> Eval<'a> {
        self.burn(ast.span(), 1)?;
        match ast {
            Ast::Literal(value) => Ok(Cow::Borrowed(value)),
            Ast::Percent(number) | Ast::Duration(number) => owned_number(*number, ast.span()),
            Ast::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.value(item)?;
                    self.copy(&value, item.span())?;
                    list.push(value.into_owned());
                }
                Ok(Cow::Owned(list.into()))
            }
            Ast::Path(path) => self.path(path),
            Ast::Call { function, arguments, span } => self.call(*function, arguments, *span),
            Ast::Negate(inner, span) => {
                let zero = Json::from(0);
                let value = self.value(inner)?;
                arithmetic(Arithmetic::Subtract, &zero, &value, *span).map(Cow::Owned)
            }
            Ast::Arithmetic { first, rest, span } => {
                let mut total = self.value(first)?;
                for (operator, item) in rest {
                    let item = self.value(item)?;
                    self.burn(*span, size(&total) + size(&item))?;
                    total = Cow::Owned(arithmetic(*operator, &total, &item, *span)?);
                }
                Ok(total)
            }
            Ast::Not(..) | Ast::And(_) | Ast::Or(_) | Ast::Compare(_) => {
                Ok(Cow::Owned(self.truth(ast)?.into()))
            }
        }
    }

    fn truth(&mut self, ast: &'a Ast) -> Result<bool, EvalError> {
        match ast {
            Ast::Not(inner, _) => Ok(!self.truth(inner)?),
            Ast::And(items) => {
                for item in items {
                    if !self.truth(item)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Ast::Or(items) => {
                for item in items {
                    if self.truth(item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Ast::Compare(comparison) => {
                self.burn(comparison.span, 1)?;
                self.compare(comparison)
            }
            _ => {
                let value = self.value(ast)?;
                value.as_bool().ok_or_else(|| {
                    let message = format!("expected true or false, found {}", kind(&value));
                    EvalError::new(ast.span(), message)
                        .hint("compare it with something, as in `x > 0` or `x != null`")
                })
            }
        }
    }

    fn path(&mut self, path: &'a Path) -> Eval<'a> {
        let root = match &path.root {
            Root::Name(name) => self.scope.root(name).ok_or_else(|| {
                EvalError::new(path.span, format!("`{name}` has no meaning here"))
            })?,
            Root::Step { id, aspect, .. } => {
                let step = self.scope.step(id.as_str()).ok_or_else(|| {
                    let error = EvalError::new(path.span, format!("there is no step `{id}`"));
                    match nearest(id.as_str(), super::ROOTS) {
                        Some(root) => error.hint(format!("did you mean `{root}`?")),
                        None => error,
                    }
                })?;
                match aspect {
                    Aspect::Output => Cow::Borrowed(step.output),
                    Aspect::Status => Cow::Owned(step.status.into()),
                    Aspect::Error => step.error,
                }
            }
        };
        Ok(match root {
            Cow::Borrowed(value) => Cow::Borrowed(part(value, path)?),
            Cow::Owned(value) if path.segments.is_empty() => Cow::Owned(value),
            Cow::Owned(value) => Cow::Owned(part(&value, path)?.clone()),
        })
    }

    fn compare(&mut self, comparison: &'a Comparison) -> Result<bool, EvalError> {
        let Comparison { left, operator, right, span, regex: compiled } = comparison;
        let (a, b) = (self.value(left)?, self.value(right)?);
        self.burn(*span, size(&a).saturating_add(size(&b)))?;
        // A percentage also reads texts such as "85%".
        let percent = matches!(left, Ast::Percent(_)) || matches!(right, Ast::Percent(_));
        let (a, b) = if percent { (percentage(a), percentage(b)) } else { (a, b) };
        let ordered = || order(*operator, &a, &b, *span);
        match operator {
            Compare::Equal => Ok(equal(&a, &b)),
            Compare::NotEqual => Ok(!equal(&a, &b)),
            Compare::Less => Ok(ordered()? == Ordering::Less),
            Compare::LessOrEqual => Ok(ordered()? != Ordering::Greater),
            Compare::Greater => Ok(ordered()? == Ordering::Greater),
            Compare::GreaterOrEqual => Ok(ordered()? != Ordering::Less),
            Compare::In => contains(&b, &a, *operator, *span),
            Compare::Contains => contains(&a, &b, *operator, *span),
            Compare::Matches | Compare::StartsWith | Compare::EndsWith => {
                let (Some(text), Some(other)) = (a.as_str(), b.as_str()) else {
                    return Err(operands(operator.symbol(), &a, &b, *span));
                };
                match (operator, compiled) {
                    (Compare::StartsWith, _) => Ok(text.starts_with(other)),
                    (Compare::EndsWith, _) => Ok(text.ends_with(other)),
                    (_, Some(regex)) => Ok(regex.is_match(text)),
                    (_, None) => regex(other)
                        .map(|regex| regex.is_match(text))
                        .map_err(|message| EvalError::new(*span, message)),
                }
            }
        }
    }

    fn call(&mut self, function: Function, arguments: &'a [Ast], span: Span) -> Eval<'a> {
        match function {
            Function::Exists => {
                let found = arguments
                    .first()
                    .is_some_and(|path| self.value(path).is_ok_and(|v| !v.is_null()));
                return Ok(Cow::Owned(found.into()));
            }
            Function::Default => {
                let [path, fallback] = arguments else {
                    return Ok(Cow::Owned(Json::Null));
                };
                return match self.value(path) {
                    Ok(value) if !value.is_null() => Ok(value),
                    // Only a missing name falls back; a division by zero stays an error.
                    Err(error) if !matches!(path, Ast::Path(_)) => Err(error),
                    _ => self.value(fallback),
                };
            }
            Function::Now => {
                return owned_number(self.scope.now().as_micros() as f64 / 1e6, span);
            }
            _ => {}
        }
        let values: Vec<Cow<'a, Json>> =
            arguments.iter().map(|argument| self.value(argument)).collect::<Result<_, _>>()?;
        let total = values.iter().fold(0_u32, |sum, value| sum.saturating_add(size(value)));
        self.burn(span, total)?;
        super::functions::apply(function, &values, span).map(Cow::Owned)
    }

    /// Values copied into a list are bounded: a list of lists of lists would double each time.
    fn copy(&mut self, value: &Json, span: Span) -> Result<(), EvalError> {
        let wrong = match weigh(value, COPIED_MAX - self.copied) {
            Ok(weight) => {
                self.copied += weight;
                return Ok(());
            }
            Err(TooBig::Deep) => format!("makes a list that nests deeper than {NESTING_MAX}"),
            Err(TooBig::Many) => format!("copies more than {COPIED_MAX} values into a list"),
        };
        Err(EvalError::new(span, wrong))
    }

    fn burn(&mut self, span: Span, cost: u32) -> Result<(), EvalError> {
        match self.fuel.checked_sub(cost) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => Err(EvalError::new(span, format!("takes more than {FUEL} operations"))),
        }
    }
}

static NULL: Json = Json::Null;

/// The part of a value that a path leads to.
fn part<'a>(mut value: &'a Json, path: &Path) -> Result<&'a Json, EvalError> {
    for segment in &path.segments {
        // Nothing of it is here, and null would be a lie.
        if is_blob(value) {
            let message = "this value is so large that it is kept elsewhere; only steps that take it as \
                           an input can read it";
            return Err(EvalError::new(path.span, message.to_string()));
        }
        value = field(value, segment);
    }
    Ok(value)
}

/// A part of a value; what is not there is null.
fn field<'a>(value: &'a Json, segment: &Segment) -> &'a Json {
    match segment {
        Segment::Field(name) => value.get(name.as_str()).unwrap_or(&NULL),
        Segment::Index(index) => value.get(*index).unwrap_or(&NULL),
    }
}

/// How many operations it takes to look at a whole value, roughly: one per 64 bytes or item.
fn size(value: &Json) -> u32 {
    let size = match value {
        Json::String(text) => text.len() / 64,
        Json::Array(items) => items.len() / 8,
        Json::Object(fields) => fields.len() / 8,
        _ => 0,
    };
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn percentage(value: Cow<'_, Json>) -> Cow<'_, Json> {
    let read = |text: &str| text.trim().strip_suffix('%')?.trim().parse::<f64>().ok();
    match value.as_str().and_then(read).and_then(Number::from_f64) {
        Some(number) => Cow::Owned(Json::Number(number)),
        None => value,
    }
}

/// Numbers by value, whatever their representation; everything else as JSON.
fn equal(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => numbers(a, b) == Some(Ordering::Equal),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (a, b) => a == b,
    }
}

fn order(operator: Compare, a: &Json, b: &Json, span: Span) -> Result<Ordering, EvalError> {
    let ordering = match (a, b) {
        (Json::Number(a), Json::Number(b)) => numbers(a, b),
        (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    ordering.ok_or_else(|| operands(operator.symbol(), a, b, span))
}

/// Whole numbers exactly, others as the nearest `f64`.
pub(super) fn numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn contains(whole: &Json, part: &Json, operator: Compare, span: Span) -> Result<bool, EvalError> {
    match (whole, part) {
        (Json::Array(items), part) => Ok(items.iter().any(|item| equal(item, part))),
        (Json::String(text), Json::String(part)) => Ok(text.contains(part.as_str())),
        (Json::Object(fields), Json::String(name)) => Ok(fields.contains_key(name)),
        _ if operator == Compare::In => Err(operands("in", part, whole, span)),
        _ => Err(operands(operator.symbol(), whole, part, span)),
    }
}

fn arithmetic(operator: Arithmetic, a: &Json, b: &Json, span: Span) -> Result<Json, EvalError> {
    if let (Arithmetic::Add, Json::String(a), Json::String(b)) = (operator, a, b) {
        if a.len() + b.len() > RESULT_BYTES_MAX {
            let message = format!("makes a text of more than {RESULT_BYTES_MAX} bytes");
            return Err(EvalError::new(span, message));
        }
        return Ok(format!("{a}{b}").into());
    }
    let (Some(x), Some(y)) = (a.as_f64(), b.as_f64()) else {
        return Err(operands(operator.symbol(), a, b, span));
    };
    if y == 0.0 && matches!(operator, Arithmetic::Divide | Arithmetic::Remainder) {
        return Err(EvalError::new(span, "division by zero"));
    }
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        let whole = match operator {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Subtract => a.checked_sub(b),
            Arithmetic::Multiply => a.checked_mul(b),
            Arithmetic::Divide if a.checked_rem(b) == Some(0) => a.checked_div(b),
            Arithmetic::Divide => None,
            Arithmetic::Remainder => a.checked_rem(b),
        };
        if let Some(whole) = whole {
            return Ok(whole.into());
        }
    }
    let result = match operator {
        Arithmetic::Add => x + y,
        Arithmetic::Subtract => x - y,
        Arithmetic::Multiply => x * y,
        Arithmetic::Divide => x / y,
        Arithmetic::Remainder => x % y,
    };
    owned_number(result, span).map(Cow::into_owned)
}

pub(super) fn owned_number<'a>(number: f64, span: Span) -> Eval<'a> {
    let whole = number as i64;
    if whole as f64 == number && whole.unsigned_abs() < 1 << 53 {
        return Ok(Cow::Owned(whole.into()));
    }
    match Number::from_f64(number) {
        Some(number) => Ok(Cow::Owned(Json::Number(number))),
        None => Err(EvalError::new(span, "the result is too large for a number")),
    }
}

fn operands(operator: &str, a: &Json, b: &Json, span: Span) -> EvalError {
    let error =
        EvalError::new(span, format!("`{operator}` cannot take {} and {}", kind(a), kind(b)));
    match (a, b) {
        (Json::Null, _) | (_, Json::Null) => error.hint("default(path, value) stands in for null"),
        (Json::String(_), Json::Number(_)) | (Json::Number(_), Json::String(_)) => {
            error.hint("number(text) reads a text as a number")
        }
        _ => error,
    }
}

pub(super) fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
