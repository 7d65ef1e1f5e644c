//! The structured form of conditions: what a form or another program writes.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::ast::{Ast, Compare, Comparison};
use super::error::{Span, SyntaxError};
use super::functions::Function;
use super::{DEPTH_MAX, Expr, parser};
use crate::error::nearest;
use crate::value::Json;

/// A condition: an expression, or the structured form that means the same.
///
/// ```
/// use serde_json::json;
/// use stepwell::expr::Condition;
///
/// let condition: Condition = serde_json::from_value(json!({"all": [
///     {"field": "tests.coverage", "operator": "greater_than", "value": 80},
///     {"not": {"field": "input.draft", "operator": "exists"}},
/// ]}))?;
/// assert_eq!(condition.compile()?.to_string(), "tests.coverage > 80 and not exists(input.draft)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// An expression.
    Expr(Expr),
    /// One comparison.
    Field {
        /// A path, as in `tests.coverage`.
        field: String,
        /// How it is compared.
        operator: Operator,
        /// What with; [`Operator::Exists`] takes true (the default) or false.
        value: Json,
    },
    /// All of them hold.
    All(Vec<Condition>),
    /// At least one of them holds.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operator {
    /// `==`
    Equals,
    /// `!=`
    NotEquals,
    /// The field contains the value.
    Contains,
    /// `>`
    GreaterThan,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    LessThan,
    /// `<=`
    LessOrEqual,
    /// The value, a list, contains the field.
    In,
    /// The field is there and not null.
    Exists,
    /// The value is a regular expression that the field matches somewhere.
    Matches,
}

const OPERATORS: [(&str, &str, Operator); 10] = [
    ("equals", "==", Operator::Equals),
    ("not_equals", "!=", Operator::NotEquals),
    ("contains", "", Operator::Contains),
    ("greater_than", ">", Operator::GreaterThan),
    ("greater_or_equal", ">=", Operator::GreaterOrEqual),
    ("less_than", "<", Operator::LessThan),
    ("less_or_equal", "<=", Operator::LessOrEqual),
    ("in", "", Operator::In),
    ("exists", "", Operator::Exists),
    ("matches", "", Operator::Matches),
];

impl Condition {
    /// An expression from text.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn expr(text: &str) -> Result<Self, SyntaxError> {
        Expr::parse(text).map(Self::Expr)
    }

    /// The expression that means the same.
    ///
    /// # Errors
    /// A field that is not a path, a value that no expression can write (an object), a pattern that
    /// is not valid, conditions nested too deeply.
    pub fn compile(&self) -> Result<Expr, SyntaxError> {
        self.ast(0).map(Expr::of)
    }

    fn ast(&self, depth: usize) -> Result<Ast, SyntaxError> {
        let fail = |message: String| Err(SyntaxError::new(Span::default(), message));
        if depth > DEPTH_MAX {
            return fail(format!("more than {DEPTH_MAX} conditions inside each other"));
        }
        let all = |list: &[Self]| -> Result<Vec<Ast>, SyntaxError> {
            list.iter().map(|condition| condition.ast(depth + 1)).collect()
        };
        match self {
            Self::Expr(expr) => Ok(expr.ast().clone()),
            Self::Field { field, operator, value } => comparison(field, *operator, value),
            Self::All(list) => Ok(joined(all(list)?, true)),
            Self::Any(list) => Ok(joined(all(list)?, false)),
            Self::Not(inner) => Ok(Ast::Not(Box::new(inner.ast(depth + 1)?), Span::default())),
        }
    }
}

/// All of nothing is true, any of nothing false.
fn joined(mut items: Vec<Ast>, all: bool) -> Ast {
    match items.len() {
        0 => Ast::Literal(all.into()),
        1 => items.remove(0),
        _ if all => Ast::And(items),
        _ => Ast::Or(items),
    }
}

fn comparison(field: &str, operator: Operator, value: &Json) -> Result<Ast, SyntaxError> {
    let left = parser::parse(field)?;
    if !matches!(left, Ast::Path(_)) {
        let message = format!("`{field}` is not a path like tests.coverage");
        return Err(SyntaxError::new(Span::default(), message));
    }
    let span = left.span();
    let operator = match operator {
        Operator::Exists => {
            let exists = Ast::Call { function: Function::Exists, arguments: vec![left], span };
            return match value {
                Json::Null | Json::Bool(true) => Ok(exists),
                Json::Bool(false) => Ok(Ast::Not(Box::new(exists), span)),
                _ => Err(SyntaxError::new(span, "`exists` takes true or false")),
            };
        }
        Operator::Equals => Compare::Equal,
        Operator::NotEquals => Compare::NotEqual,
        Operator::Contains => Compare::Contains,
        Operator::GreaterThan => Compare::Greater,
        Operator::GreaterOrEqual => Compare::GreaterOrEqual,
        Operator::LessThan => Compare::Less,
        Operator::LessOrEqual => Compare::LessOrEqual,
        Operator::In => Compare::In,
        Operator::Matches => Compare::Matches,
    };
    let right = literal(value, 0)?;
    let regex = match (&right, operator) {
        (Ast::Literal(Json::String(pattern)), Compare::Matches) => {
            Some(parser::regex(pattern).map_err(|message| SyntaxError::new(span, message))?)
        }
        _ => None,
    };
    Ok(Ast::Compare(Box::new(Comparison { left, operator, right, span, regex })))
}

/// A value as the parser would read it: signs and lists are operators there. A text such as "80%"
/// means the percentage.
fn literal(value: &Json, depth: usize) -> Result<Ast, SyntaxError> {
    let span = Span::default();
    match value {
        _ if depth > DEPTH_MAX => Err(SyntaxError::new(span, "lists nested too deeply")),
        Json::Array(items) => Ok(Ast::List(
            items.iter().map(|item| literal(item, depth + 1)).collect::<Result<_, _>>()?,
        )),
        Json::Object(_) => Err(SyntaxError::new(span, "a condition cannot compare with an object")
            .hint("compare its fields one by one")),
        Json::Number(number) if number.to_string().starts_with('-') => {
            let positive = parser::parse(&number.to_string()[1..])?;
            Ok(Ast::Negate(Box::new(positive), span))
        }
        Json::Number(number) => parser::parse(&number.to_string()),
        Json::String(text) if is_percentage(text) => parser::parse(text.trim()),
        other => Ok(Ast::Literal(other.clone())),
    }
}

fn is_percentage(text: &str) -> bool {
    let number = text.trim().strip_suffix('%');
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// Prints the expression that means the same.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compile() {
            Ok(expr) => expr.fmt(f),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match self {
            Self::Expr(expr) => return serializer.collect_str(expr),
            Self::Field { .. } => serializer.serialize_map(Some(3))?,
            Self::All(_) | Self::Any(_) | Self::Not(_) => serializer.serialize_map(Some(1))?,
        };
        match self {
            Self::Field { field, operator, value } => {
                let name = OPERATORS.iter().find(|(.., known)| known == operator);
                map.serialize_entry("field", field)?;
                map.serialize_entry("operator", name.map_or("", |(name, ..)| name))?;
                map.serialize_entry("value", value)?;
            }
            Self::All(list) => map.serialize_entry("all", list)?,
            Self::Any(list) => map.serialize_entry("any", list)?,
            Self::Not(inner) => map.serialize_entry("not", inner)?,
            Self::Expr(_) => {}
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Condition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an expression, {field, operator, value}, {all: [...]}, {any: [...]} or {not: ...}",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Condition, E> {
        Condition::expr(text).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Condition, E> {
        Ok(Condition::Expr(Expr::of(Ast::Literal(value.into()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Condition, A::Error> {
        let (mut field, mut operator, mut value) = (None, None, None);
        let mut group = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "field" => field = Some(map.next_value::<String>()?),
                "operator" => operator = Some(map.next_value::<Operator>()?),
                "value" => value = Some(map.next_value::<Json>()?),
                "all" => group = Some(Condition::All(map.next_value()?)),
                "any" => group = Some(Condition::Any(map.next_value()?)),
                "not" => group = Some(Condition::Not(Box::new(map.next_value()?))),
                other => {
                    const FIELDS: [&str; 6] = ["field", "operator", "value", "all", "any", "not"];
                    return Err(de::Error::unknown_field(other, &FIELDS));
                }
            }
        }
        match (group, field, operator) {
            (Some(group), None, None) if value.is_none() => Ok(group),
            (None, Some(field), Some(operator)) => {
                Ok(Condition::Field { field, operator, value: value.unwrap_or(Json::Null) })
            }
            (None, None, _) => Err(de::Error::missing_field("field")),
            (None, Some(_), None) => Err(de::Error::missing_field("operator")),
            _ => Err(de::Error::custom("a condition is one of field, all, any, not; not several")),
        }
    }
}

impl<'de> Deserialize<'de> for Operator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = OPERATORS.iter().find(|(name, symbol, _)| *name == text || *symbol == text);
        known.map(|(.., operator)| *operator).ok_or_else(|| {
            let near = nearest(&text, OPERATORS.iter().map(|(name, ..)| *name));
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            de::Error::custom(format_args!("there is no operator `{text}`{hint}"))
        })
    }
}
