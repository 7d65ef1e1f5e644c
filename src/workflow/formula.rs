//! What gives a value in a definition: an expression, or a text with holes.

use crate::expr::{EvalError, Expr, Scope, Type, TypeScope};
#[cfg(feature = "template")]
use crate::template::Template;
use crate::value::Json;

/// What gives the value of an input, an output or a variable.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Formula {
    /// An expression.
    Expr(Expr),
    /// A text with `{{ ... }}` holes.
    #[cfg(feature = "template")]
    #[cfg_attr(docsrs, doc(cfg(feature = "template")))]
    Template(Template),
}

impl Formula {
    /// The value in this scope.
    ///
    /// # Errors
    /// What the expression or the template says.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<Json, EvalError> {
        match self {
            Self::Expr(expr) => expr.evaluate(scope),
            #[cfg(feature = "template")]
            Self::Template(template) => template.evaluate(scope),
        }
    }

    /// The type of what a text gives; anything, if it gives nothing.
    pub(crate) fn type_of(text: &str, types: &dyn TypeScope) -> Type {
        let found = match Self::is_template(text) {
            true => Self::type_of_template(text, types),
            false => Expr::parse(text).ok().and_then(|expr| expr.check(types).ok()),
        };
        found.unwrap_or(Type::Any)
    }

    #[cfg(feature = "template")]
    fn type_of_template(text: &str, types: &dyn TypeScope) -> Option<Type> {
        Template::parse(text).ok()?.check(types).ok()
    }

    #[cfg(not(feature = "template"))]
    fn type_of_template(_: &str, _: &dyn TypeScope) -> Option<Type> {
        None
    }

    /// Whether a text is a template rather than an expression.
    pub(crate) fn is_template(text: &str) -> bool {
        text.contains("{{") || text.contains("{%")
    }
}
