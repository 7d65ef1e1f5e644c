//! What a step writes itself, in the transaction that records its success.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorClass, ErrorKind};
use crate::id::StepKey;

/// Statements that one step may write: they wait in memory, and then hold up all others that write.
pub const STATEMENTS_MAX: usize = 1_000;
/// Bytes of the texts and parameters of all statements of one step.
pub const STATEMENTS_BYTES_MAX: usize = 16 << 20;

/// One statement in the language of the storage, with its parameters.
///
/// `$1`, `$2` and so on are the parameters, counted from 1, on SQLite as on PostgreSQL; SQLite takes
/// `?` and `?1`, too. What else is in it the storage has to understand, such as casts: in PostgreSQL a text
/// is `text`, and a `uuid`, JSON or a time as `$1::uuid`, `$1::jsonb` or `$1::timestamptz`; numbers are
/// `bigint` and `double precision`, which go into columns of other numbers by themselves.
///
/// ```
/// use stepwell::storage::Statement;
///
/// let insert = Statement::new("INSERT INTO orders (id, total) VALUES ($1, $2)")
///     .bind("order-4711")
///     .bind(99.5);
/// // One row has to be changed, or nothing is.
/// let take = Statement::new("UPDATE stock SET left = left - 1 WHERE part = $1 AND left > 0")
///     .bind(7)
///     .changes(1);
/// assert_eq!((insert.parameters.len(), take.changes), (2, Some(1)));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Statement {
    /// The text: one statement that writes.
    pub sql: String,
    /// The values of its parameters, in order.
    pub parameters: Vec<Parameter>,
    /// How many rows it has to change; none is any number.
    pub changes: Option<u64>,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new(), changes: None }
    }

    /// The value of the next parameter.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Parameter>) -> Self {
        self.parameters.push(value.into());
        self
    }

    /// How many rows it has to change, triggers not counted. If it changes another number, the step
    /// fails with class [`Fatal`](ErrorClass::Fatal), and nothing of what it writes is there.
    #[must_use]
    pub const fn changes(mut self, rows: u64) -> Self {
        self.changes = Some(rows);
        self
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let of = |parameter: &Parameter| match parameter {
            Parameter::Text(text) => text.len(),
            Parameter::Bytes(bytes) => bytes.len(),
            _ => 8,
        };
        self.sql.len() + self.parameters.iter().map(of).sum::<usize>()
    }
}

/// The value of a statement's parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Parameter {
    /// Nothing.
    Null,
    /// True or false; SQLite keeps 1 and 0.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text. Times and JSON are texts, too.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

macro_rules! parameters {
    ($($kind:ident: $($type:ty),*;)*) => {$($(
        impl From<$type> for Parameter {
            fn from(value: $type) -> Self {
                Self::$kind(value.into())
            }
        }
    )*)*};
}
parameters! {
    Boolean: bool;
    Integer: i64, i32, i16, u32, u16, u8;
    Real: f64, f32;
    Text: String, &str;
    Bytes: Vec<u8>, &[u8];
}

impl<T: Into<Self>> From<Option<T>> for Parameter {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What one step writes itself.
#[derive(Clone, Debug, PartialEq)]
pub struct StepWrites {
    /// Which, for the error that names it.
    pub step: StepKey,
    /// In this order.
    pub statements: Arc<[Statement]>,
}

/// Why a storage did not take what a step writes: the source of an error of kind
/// [`WriteRefused`](ErrorKind::WriteRefused).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedWrite {
    /// Which step's; none where only the end of the transaction could tell that something is wrong.
    pub step: Option<StepKey>,
    /// [`Fatal`](ErrorClass::Fatal) when the data refuses it, [`Configuration`](ErrorClass::Configuration)
    /// when the statement is wrong or not allowed, [`Temporary`](ErrorClass::Temporary) when somebody
    /// else is in its way.
    pub class: ErrorClass,
    /// Which statement, and what the storage says to it.
    pub message: String,
}

impl RefusedWrite {
    /// That the statement at this place, counted from 0, was refused.
    pub fn new(writes: &StepWrites, at: usize, class: ErrorClass, why: impl fmt::Display) -> Self {
        let of = writes.statements.len();
        let sql = writes.statements.get(at).map_or("", |statement| statement.sql.as_str());
        let message = format!("statement {} of {of}, `{sql:.100}`: {why}", at + 1);
        Self { step: Some(writes.step), class, message }
    }

    /// The error that a storage answers.
    #[must_use]
    pub fn into_error(self) -> Error {
        Error::new(ErrorKind::WriteRefused, self.to_string()).because(self)
    }

    /// What an error says, if it is about that.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for RefusedWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what the step writes was refused: {}", self.message)
    }
}

impl std::error::Error for RefusedWrite {}
