//! The tree of an expression.
//!
//! Operators of one level stand side by side in a chain, so the tree is never deeper than the
//! nesting of parentheses times the number of levels, and walking it may recurse.

use regex::Regex;

use super::Aspect;
use super::error::Span;
use super::functions::Function;
use crate::id::StepId;
use crate::value::Json;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ast {
    Literal(Json),
    /// The number before the `%`.
    Percent(f64),
    /// Seconds.
    Duration(f64),
    List(Vec<Ast>),
    Path(Path),
    Call {
        function: Function,
        arguments: Vec<Ast>,
        span: Span,
    },
    Not(Box<Ast>, Span),
    Negate(Box<Ast>, Span),
    And(Vec<Ast>),
    Or(Vec<Ast>),
    /// Sums, or products: applied from left to right.
    Arithmetic {
        first: Box<Ast>,
        rest: Vec<(Arithmetic, Ast)>,
        span: Span,
    },
    Compare(Box<Comparison>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) left: Ast,
    pub(crate) operator: Compare,
    pub(crate) right: Ast,
    pub(crate) span: Span,
    /// The compiled pattern of `matches`, when it is a literal.
    pub(crate) regex: Option<Regex>,
}

impl PartialEq for Comparison {
    fn eq(&self, other: &Self) -> bool {
        // The pattern is compiled from `right`.
        self.operator == other.operator && self.left == other.left && self.right == other.right
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Contains,
    Matches,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) segments: Vec<Segment>,
    pub(crate) span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Root {
    /// One of [`super::ROOTS`].
    Name(&'static str),
    /// A step; `bare` when it was written without `steps.`, as people do.
    Step { id: StepId, aspect: Aspect, bare: bool },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Segment {
    Field(String),
    Index(usize),
}

impl Ast {
    /// Calls `f` with every node, from left to right.
    pub(super) fn visit(&self, f: &mut impl FnMut(&Self)) {
        f(self);
        match self {
            Self::Literal(_) | Self::Percent(_) | Self::Duration(_) | Self::Path(_) => {}
            Self::List(items) | Self::And(items) | Self::Or(items) => {
                items.iter().for_each(|item| item.visit(f));
            }
            Self::Call { arguments, .. } => arguments.iter().for_each(|item| item.visit(f)),
            Self::Not(inner, _) | Self::Negate(inner, _) => inner.visit(f),
            Self::Arithmetic { first, rest, .. } => {
                first.visit(f);
                rest.iter().for_each(|(_, item)| item.visit(f));
            }
            Self::Compare(comparison) => {
                comparison.left.visit(f);
                comparison.right.visit(f);
            }
        }
    }

    /// Where it stands, as far as errors need it.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Path(path) => path.span,
            Self::Call { span, .. }
            | Self::Not(_, span)
            | Self::Negate(_, span)
            | Self::Arithmetic { span, .. } => *span,
            Self::Compare(comparison) => comparison.span,
            Self::And(items) | Self::Or(items) => {
                items.first().map_or_else(Span::default, Self::span)
            }
            Self::Literal(_) | Self::Percent(_) | Self::Duration(_) | Self::List(_) => {
                Span::default()
            }
        }
    }
}

impl Arithmetic {
    pub(super) const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "mod",
        }
    }

    pub(super) const fn is_product(self) -> bool {
        matches!(self, Self::Multiply | Self::Divide | Self::Remainder)
    }
}

impl Compare {
    pub(super) const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Contains => "contains",
            Self::Matches => "matches",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
        }
    }
}
