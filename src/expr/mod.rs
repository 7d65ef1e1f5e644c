//! The expression language of conditions and inputs.
//!
//! ```text
//! or and not          tests.coverage > 80% and not input.draft
//! == != < <= > >=     steps.build.status == 'succeeded'
//! in contains matches startsWith endsWith
//! + - * / mod         len(input.files) * 2
//! paths               input.user["first-name"], steps.a.output.items[0]
//! literals            'text', 12, 1_000, 80%, 5m, [1, 2], true, null
//! functions           len exists default lower upper number string time now min max abs round
//! ```
//!
//! A bare name that is not one of the [known roots](ROOTS) is a step: `tests.coverage` is
//! `steps.tests.output.coverage`. A field that is missing from an object is null; a name that stands
//! for nothing is an error. Numbers and texts are never converted silently; only a percentage such
//! as `80%` also reads texts such as `"85%"`.
//!
//! Expressions may come from people who are not the host's programmers: text, nesting, time and
//! results are [bounded](SOURCE_BYTES_MAX), and nothing here panics.

mod ast;
mod check;
mod condition;
mod error;
mod eval;
mod functions;
mod lexer;
mod parser;
mod print;
mod schema;
#[cfg(test)]
mod tests;
mod types;

pub use check::TypeScope;
pub use condition::{Condition, Operator};
pub use error::{EvalError, Span, SyntaxError, TypeError};
pub use eval::{Scope, StepView};
pub use schema::{Mismatch, Schema};
pub use types::Type;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::StepId;
use crate::value::Json;
use ast::Ast;

/// Bytes of an expression: what a person can still read.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// Parentheses, calls, lists and signs inside each other.
pub const DEPTH_MAX: usize = 64;
/// Operations of one evaluation; long texts and lists count for more than one.
pub const FUEL: u32 = 10_000;
/// Bytes of a text that an expression makes.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;
/// Values that one evaluation copies into lists.
pub const COPIED_MAX: usize = 1_000_000;
/// Names that are not steps.
pub const ROOTS: [&str; 8] = ["input", "vars", "item", "index", "turn", "last", "run", "output"];

/// A parsed expression. Cloning shares the tree; it is compared by meaning, not by spelling.
///
/// ```
/// use stepwell::expr::Expr;
///
/// let expr = Expr::parse("tests.coverage>80%")?;
/// assert_eq!(expr.to_string(), "tests.coverage > 80%");
/// assert_eq!(expr.mentions()[0].step.as_str(), "tests");
///
/// let error = Expr::parse("tests.coverage >").unwrap_err();
/// assert_eq!(error.to_string(), "at column 17: expected a value, found the end");
/// # Ok::<(), stepwell::expr::SyntaxError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Expr(Arc<Ast>);

/// A step that an expression names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mention {
    /// Its id.
    pub step: StepId,
    /// What of it is read.
    pub aspect: Aspect,
    /// Where.
    pub span: Span,
}

/// What an expression reads of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// Its output, or a part of it.
    Output,
    /// What has become of it: `pending`, `running`, `succeeded`, `failed`, ...
    Status,
    /// Why it failed: an object with `class` and `message`, or null.
    Error,
}

impl Expr {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        parser::parse(text).map(|ast| Self(Arc::new(ast)))
    }

    /// The value in this scope.
    ///
    /// # Errors
    /// A name that stands for nothing, operands of the wrong types, a division by zero, a limit.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<Json, EvalError> {
        eval::evaluate(&self.0, scope)
    }

    /// Whether it holds in this scope.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and for a value that is not a boolean.
    pub fn is_true(&self, scope: &dyn Scope) -> Result<bool, EvalError> {
        eval::is_true(&self.0, scope)
    }

    /// Every step that it names, in order, as often as it does.
    #[must_use]
    pub fn mentions(&self) -> Vec<Mention> {
        let mut found = Vec::new();
        self.0.visit(&mut |ast| {
            if let Ast::Path(path) = ast
                && let ast::Root::Step { id, aspect, .. } = &path.root
            {
                found.push(Mention { step: id.clone(), aspect: *aspect, span: path.span });
            }
        });
        found
    }

    /// Whether its value can change by time alone.
    #[must_use]
    pub fn reads_now(&self) -> bool {
        let mut found = false;
        self.0.visit(&mut |ast| {
            found |= matches!(ast, Ast::Call { function: functions::Function::Now, .. });
        });
        found
    }

    /// The type of its value, as far as it is known beforehand.
    ///
    /// # Errors
    /// Every place where the types cannot fit, and every name that stands for nothing.
    pub fn check(&self, types: &dyn TypeScope) -> Result<Type, Vec<TypeError>> {
        check::check(&self.0, types)
    }

    pub(crate) fn of(ast: Ast) -> Self {
        Self(Arc::new(ast))
    }

    pub(crate) fn ast(&self) -> &Ast {
        &self.0
    }
}

impl FromStr for Expr {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        Self::parse(text)
    }
}

/// Prints text that parses to the same tree.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print::print(&self.0, f)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
