//! From an error that a step returned to its class.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::{ErrorClass, StepError};

type Rule = Arc<dyn Fn(&StepError) -> Option<ErrorClass> + Send + Sync>;

/// Finds the class of an error: your rules first, then the class that the step gave, then the types
/// in its chain of causes, then the words of its message.
///
/// ```
/// use stepwell::retry::ErrorClassifier;
/// use stepwell::{ErrorClass, StepError};
///
/// let classifier = ErrorClassifier::default()
///     .rule(|error| error.to_string().contains("E-77").then_some(ErrorClass::Permission));
/// let refused = StepError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
/// assert_eq!(classifier.classify(&refused), ErrorClass::Connection);
/// assert_eq!(classifier.classify(&StepError::retryable("E-77")), ErrorClass::Permission);
/// ```
#[derive(Clone, Default)]
pub struct ErrorClassifier {
    rules: Vec<Rule>,
}

impl ErrorClassifier {
    /// Adds a rule; the first that knows the class decides.
    #[must_use]
    pub fn rule(
        mut self,
        rule: impl Fn(&StepError) -> Option<ErrorClass> + Send + Sync + 'static,
    ) -> Self {
        self.rules.push(Arc::new(rule));
        self
    }

    /// The class of an error.
    #[must_use]
    pub fn classify(&self, error: &StepError) -> ErrorClass {
        if let Some(class) = self.rules.iter().find_map(|rule| rule(error)) {
            return class;
        }
        if error.class() != ErrorClass::Unknown {
            return error.class();
        }
        by_type(error.source().map(|source| source as _))
            .or_else(|| by_words(&error.to_string()))
            .unwrap_or(ErrorClass::Unknown)
    }
}

impl fmt::Debug for ErrorClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorClassifier({} rules)", self.rules.len())
    }
}

/// Causes that are looked at; a longer chain is a circle or a mistake.
const CHAIN_MAX: usize = 32;

fn by_type(mut error: Option<&(dyn StdError + 'static)>) -> Option<ErrorClass> {
    for _ in 0..CHAIN_MAX {
        let here = error?;
        if let Some(io) = here.downcast_ref::<io::Error>()
            && let Some(class) = by_kind(io.kind())
        {
            return Some(class);
        }
        if here.is::<serde_json::Error>() {
            return Some(ErrorClass::Validation);
        }
        error = here.source();
    }
    None
}

fn by_kind(kind: io::ErrorKind) -> Option<ErrorClass> {
    use io::ErrorKind as Kind;
    Some(match kind {
        Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::NotConnected
        | Kind::BrokenPipe
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::UnexpectedEof => ErrorClass::Connection,
        Kind::TimedOut => ErrorClass::Timeout,
        Kind::PermissionDenied => ErrorClass::Permission,
        Kind::InvalidInput | Kind::InvalidData => ErrorClass::Validation,
        Kind::NotFound | Kind::Unsupported => ErrorClass::Configuration,
        Kind::Interrupted | Kind::WouldBlock | Kind::ResourceBusy => ErrorClass::Temporary,
        _ => return None,
    })
}

/// Words that say one thing only, as they stand in messages of HTTP clients and databases.
const WORDS: [(&str, ErrorClass); 20] = [
    ("timed out", ErrorClass::Timeout),
    ("timeout", ErrorClass::Timeout),
    ("deadline exceeded", ErrorClass::Timeout),
    ("connection refused", ErrorClass::Connection),
    ("connection reset", ErrorClass::Connection),
    ("connection closed", ErrorClass::Connection),
    ("broken pipe", ErrorClass::Connection),
    ("dns error", ErrorClass::Connection),
    ("too many requests", ErrorClass::Temporary),
    ("rate limit", ErrorClass::Temporary),
    ("temporarily unavailable", ErrorClass::Temporary),
    ("try again", ErrorClass::Temporary),
    ("service unavailable", ErrorClass::ServerError),
    ("internal server error", ErrorClass::ServerError),
    ("bad gateway", ErrorClass::ServerError),
    ("unauthorized", ErrorClass::Authentication),
    ("invalid credentials", ErrorClass::Authentication),
    ("forbidden", ErrorClass::Permission),
    ("permission denied", ErrorClass::Permission),
    ("access denied", ErrorClass::Permission),
];

fn by_words(message: &str) -> Option<ErrorClass> {
    let message = message.to_lowercase();
    WORDS.iter().find(|(words, _)| message.contains(words)).map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_deep_in_the_chain_decide_before_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("fetching the page timed out")]
        struct Fetch(#[source] io::Error);
        let error = StepError::from(Fetch(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(ErrorClassifier::default().classify(&error), ErrorClass::Connection);
    }

    #[test]
    fn words_decide_where_types_do_not() {
        let table = [
            ("HTTP 503 Service Unavailable", ErrorClass::ServerError),
            ("429 Too Many Requests", ErrorClass::Temporary),
            ("401 Unauthorized", ErrorClass::Authentication),
            ("operation timed out", ErrorClass::Timeout),
            ("no idea", ErrorClass::Unknown),
        ];
        for (message, class) in table {
            let error = StepError::from(io::Error::other(message));
            assert_eq!(ErrorClassifier::default().classify(&error), class, "{message}");
        }
    }

    #[test]
    fn what_the_step_says_stands() {
        let error = StepError::fatal("the request timed out");
        assert_eq!(ErrorClassifier::default().classify(&error), ErrorClass::Fatal);
        let wrong = serde_json::from_str::<u8>("x").unwrap_err();
        assert_eq!(ErrorClassifier::default().classify(&wrong.into()), ErrorClass::Validation);
    }
}
