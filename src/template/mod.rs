//! Texts with `{{ holes }}`, in Jinja's syntax.
//!
//! ```text
//! Deploy {{ input.version }} to {{ input.place|upper }}
//! {% for file in tests.files if file.failed %}- {{ file.name }}
//! {% else %}All is well.{% endfor %}
//! ```
//!
//! Names mean what they mean in [expressions](crate::expr): `input`, `vars` and the other
//! [roots](crate::expr::ROOTS), `steps.build.output`, and a bare name is a step's output. What does
//! not exist is an error, unless `default` stands in for it. Texts are put in as they are, other
//! values as JSON.
//!
//! There are holes, `if`, `for`, `raw`, comments, `range`, and these filters:
//!
//! ```text
//! texts      capitalize indent lines lower replace split string title tojson trim upper
//! numbers    abs float int round
//! lists      first join last length list map max min reject rejectattr reverse select selectattr
//!            sort sum
//! objects    dictsort items
//! any        bool default
//! ```
//!
//! What Jinja has beyond that (`set`, macros, includes, `~`, `+` and `*` for anything but numbers) is
//! refused: few words of it make values of any size. Calculations have their place in expressions.
//!
//! Templates may come from people who are not the host's programmers: text, nesting, time and
//! results are [bounded](SOURCE_BYTES_MAX), and nothing here panics.

mod check;
mod closed;
mod context;
mod filters;
mod functions;
mod gives;
mod grammar;
mod guard;
mod output;
mod render;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::expr::{EvalError, Mention, Scope, Span, SyntaxError, Type, TypeError, TypeScope};
use crate::value::Json;
use context::Wanted;
use gives::Gives;
use render::Compiled;

/// Bytes of a template: some pages of text.
pub const SOURCE_BYTES_MAX: usize = 16 * 1024;
/// Blocks and brackets inside each other: parsing recurses, and threads have small stacks.
pub const DEPTH_MAX: usize = 16;
/// Words and signs of one `{{ }}` or `{% %}`: a chain of operators nests as deep as it is long.
pub const TAG_TOKENS_MAX: usize = 256;
/// Operations of one evaluation, when the values that it reads are up to 64 KiB; fewer in
/// proportion when they are larger, as then each takes longer.
pub const FUEL: u64 = 50_000;
/// Bytes of the values that a template reads, and of the value that it makes. Each value counts 16
/// besides its text. A text with holes becomes no longer than
/// [`RESULT_BYTES_MAX`](crate::expr::RESULT_BYTES_MAX).
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A parsed text with holes. Cloning shares it; it is compared by its source.
///
/// A text that is one hole and nothing else keeps the type of its value; every other is a text.
///
/// ```
/// use std::borrow::Cow;
/// use serde_json::json;
/// use stepwell::expr::{Scope, StepView};
/// use stepwell::template::Template;
/// use stepwell::{Json, Timestamp};
///
/// struct Input(Json);
///
/// impl Scope for Input {
///     fn now(&self) -> Timestamp {
///         Timestamp::EPOCH
///     }
///     fn root(&self, name: &str) -> Option<Cow<'_, Json>> {
///         (name == "input").then_some(Cow::Borrowed(&self.0))
///     }
///     fn step(&self, _: &str) -> Option<StepView<'_>> {
///         None
///     }
/// }
///
/// let input = Input(json!({"name": "Ada", "files": ["a", "b"]}));
/// let greeting = Template::parse("Hello {{ input.name }}, {{ input.files|length }} files")?;
/// assert_eq!(greeting.evaluate(&input)?, "Hello Ada, 2 files");
///
/// let files = Template::parse("{{ input.files }}")?;
/// assert_eq!(files.evaluate(&input)?, json!(["a", "b"]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Template(Arc<Parsed>);

struct Parsed {
    source: String,
    wanted: Wanted,
    gives: Gives,
    compiled: Compiled,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Parsed::new(text).map(|parsed| Self(Arc::new(parsed))).map_err(|mut error| {
            error.message += &line(text, error.span);
            error
        })
    }

    /// Every step that it names, in order, as often as it does.
    #[must_use]
    pub fn mentions(&self) -> Vec<Mention> {
        self.0.wanted.mentions.clone()
    }

    /// The [roots](crate::expr::ROOTS) that it reads: `input`, `vars`, ...
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        self.0.wanted.roots().map(Into::into).collect()
    }

    /// The type of its value, as far as it is known beforehand: a text, or for one hole alone that of
    /// what stands in it.
    ///
    /// # Errors
    /// That a path which is the whole hole leads to nothing.
    pub fn check(&self, types: &dyn TypeScope) -> Result<Type, Vec<TypeError>> {
        self.0.gives.check(types)
    }

    /// The value in this scope: a text, or for one hole alone the value in it.
    ///
    /// Secrets (`{"$sealed": ...}`) and references to large values (`{"$blob": ...}`) cannot become
    /// part of a text; one hole alone hands them on as they are.
    ///
    /// # Errors
    /// A name or field that stands for nothing, operands of the wrong types, a secret in a text, a
    /// limit.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<Json, EvalError> {
        let parsed = &*self.0;
        parsed.compiled.run(&parsed.wanted, scope).map_err(|mut error| {
            error.message += &line(&parsed.source, error.span);
            error
        })
    }
}

impl Parsed {
    fn new(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > SOURCE_BYTES_MAX {
            let length = text.len();
            let message =
                format!("a template of {length} bytes is too long (limit {SOURCE_BYTES_MAX})");
            return Err(SyntaxError::new(Span::default(), message));
        }
        let (tags, alone) = tokens::read(text)?;
        let is_value = alone && matches!(tags.as_slice(), [tag] if !tag.is_block);
        let checked = check::check(text, &tags)?;
        let gives = match tags.as_slice() {
            [tag] if is_value => Gives::of(text, &tag.tokens),
            _ => Gives::Type(Type::Text),
        };
        let compiled = Compiled::new(checked.guarded, is_value)?;
        let mut wanted = Wanted::default();
        for path in &checked.paths {
            wanted.add(path)?;
        }
        Ok(Self { source: text.into(), wanted, gives, compiled })
    }
}

/// The end of a sentence that says in which line, if there are several and the place is known.
fn line(source: &str, span: Span) -> String {
    match source.get(..span.start as usize) {
        Some(before) if span.end > 0 && source.contains('\n') => {
            format!(", in line {}", before.matches('\n').count() + 1)
        }
        _ => String::new(),
    }
}

/// What a value counts besides what stands in it, for [`VALUE_BYTES_MAX`].
fn measure(text: &str) -> usize {
    16 + text.len()
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl Eq for Template {}

impl FromStr for Template {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        Self::parse(text)
    }
}

/// Prints its source.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.source)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.source)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
