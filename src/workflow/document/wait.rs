//! A wait as documents write it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::Json;
use crate::workflow::{Amount, Approval, OnTimeout, Timeout, Wait, When};

/// What a `wait` waits for: exactly one of `for`, `until`, `condition`, `signal`, `approval` and
/// `first`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WaitDocument {
    /// A length of time.
    #[serde(
        default,
        rename = "for",
        skip_serializing_if = "Option::is_none",
        with = "crate::time::duration_option"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::time::LengthOfTime>"))]
    pub for_: Option<Duration>,
    /// A time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// A condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<When>,
    /// A signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// An expression for the signal's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// JSON Schema of the signal's payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// A decision that people take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalDocument>,
    /// Whichever of these comes first, each a wait of its own under its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Vec<WayDocument>>,
    /// How long at most; for a condition, a signal or an approval.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::time::duration_option"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::time::LengthOfTime>"))]
    pub timeout: Option<Duration>,
    /// What happens then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_timeout: OnTimeout,
}

/// One of several waits of which the first counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WayDocument {
    /// What the output calls it.
    pub label: String,
    /// What it waits for.
    pub wait: WaitDocument,
}

/// A decision that people take.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ApprovalDocument {
    /// Who may vote: a list of names, or an expression for one; left out is anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers: Option<ApproversDocument>,
    /// How many must say yes; left out is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Amount>,
    /// What they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// An expression for what they should see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show: Option<String>,
    /// JSON Schema of what a yes must come with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
}

/// Who may vote.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a list of names, or an expression for one")]
pub enum ApproversDocument {
    /// These.
    Named(Vec<String>),
    /// Those that this expression lists.
    From(String),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<WaitDocument> for Wait {
    type Error = String;

    fn try_from(document: WaitDocument) -> Result<Self, String> {
        let given = super::given_of([
            (document.for_.is_some(), "for"),
            (document.until.is_some(), "until"),
            (document.condition.is_some(), "condition"),
            (document.signal.is_some(), "signal"),
            (document.approval.is_some(), "approval"),
            (document.first.is_some(), "first"),
        ]);
        let [name] = given[..] else {
            let kinds = "for, until, condition, signal, approval and first";
            return Err(format!("`wait` needs exactly one of {kinds}"));
        };
        if document.timeout.is_some() && matches!(name, "for" | "until") {
            return Err("a wait for a time ends by itself and has no `timeout`".into());
        }
        if document.timeout.is_some() && name == "first" {
            return Err("give `first` a way with `for` instead of a `timeout`".into());
        }
        if (document.key.is_some() || document.schema.is_some()) && name != "signal" {
            return Err("`key` and `schema` go with `signal`".into());
        }
        let then = document.on_timeout;
        let timeout = document.timeout.map(|after| Timeout { after, then });
        if let Some(length) = document.for_ {
            Ok(Self::For(length))
        } else if let Some(until) = document.until {
            Ok(Self::Until(until))
        } else if let Some(condition) = document.condition {
            Ok(Self::Condition { condition, timeout })
        } else if let Some(name) = document.signal {
            Ok(Self::Signal { name, key: document.key, schema: document.schema, timeout })
        } else if let Some(approval) = document.approval {
            Ok(Self::Approval { approval: approval.into(), timeout })
        } else {
            let ways = document.first.unwrap_or_default().into_iter();
            let way = |way: WayDocument| Ok((way.label, Self::try_from(way.wait)?));
            ways.map(way).collect::<Result<_, String>>().map(Self::First)
        }
    }
}

impl From<Wait> for WaitDocument {
    fn from(wait: Wait) -> Self {
        let mut document = Self::default();
        let timeout = match wait {
            Wait::For(length) => {
                document.for_ = Some(length);
                None
            }
            Wait::Until(text) => {
                document.until = Some(text);
                None
            }
            Wait::Condition { condition, timeout } => {
                document.condition = Some(condition);
                timeout
            }
            Wait::Signal { name, key, schema, timeout } => {
                (document.signal, document.key, document.schema) = (Some(name), key, schema);
                timeout
            }
            Wait::Approval { approval, timeout } => {
                document.approval = Some(approval.into());
                timeout
            }
            Wait::First(ways) => {
                let way = |(label, wait): (String, Wait)| WayDocument { label, wait: wait.into() };
                document.first = Some(ways.into_iter().map(way).collect());
                None
            }
        };
        if let Some(timeout) = timeout {
            document.timeout = Some(timeout.after);
            document.on_timeout = timeout.then;
        }
        document
    }
}

impl From<ApprovalDocument> for Approval {
    fn from(document: ApprovalDocument) -> Self {
        let (approvers, approvers_from) = match document.approvers {
            Some(ApproversDocument::Named(names)) => (Some(names), None),
            Some(ApproversDocument::From(expression)) => (None, Some(expression)),
            None => (None, None),
        };
        let ApprovalDocument { quorum, prompt, show, schema, .. } = document;
        Self { approvers, approvers_from, quorum, prompt, show, schema }
    }
}

impl From<Approval> for ApprovalDocument {
    fn from(approval: Approval) -> Self {
        let Approval { approvers, approvers_from, quorum, prompt, show, schema } = approval;
        let named = approvers.map(ApproversDocument::Named);
        let approvers = approvers_from.map(ApproversDocument::From).or(named);
        Self { approvers, quorum, prompt, show, schema }
    }
}
