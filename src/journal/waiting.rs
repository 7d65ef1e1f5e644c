//! What a step waits for, and what it is told.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::value::{Json, Value};

/// What a wait waits for, with times, keys and names computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Waiting {
    /// A time.
    Until(Timestamp),
    /// A signal, and when it has waited for too long.
    Signal(String, Option<Timestamp>),
    /// A condition, and when it has waited for too long.
    Condition(Option<Timestamp>),
    /// A decision of people.
    Approval(Box<OpenApproval>),
    /// Whichever of these comes first.
    First(Vec<(String, Self)>),
}

impl Waiting {
    /// Calls `f` with every value that it carries.
    pub(super) fn each_value(&self, f: &mut dyn FnMut(&Value)) {
        match self {
            Self::Until(_) | Self::Condition(_) | Self::Signal(..) => {}
            // Votes come with events of their own.
            Self::Approval(open) => f(&open.show),
            Self::First(ways) => ways.iter().for_each(|(_, wait)| wait.each_value(f)),
        }
    }

    /// How many bytes what it says takes in the journal, about, but for its values.
    pub(super) fn bytes_beside_values(&self) -> usize {
        match self {
            Self::Until(_) | Self::Condition(_) => 0,
            Self::Signal(name, _) => name.len(),
            Self::Approval(open) => {
                let approvers: usize = open.approvers.iter().map(String::len).sum();
                open.prompt.as_ref().map_or(0, String::len) + approvers
            }
            Self::First(ways) => {
                ways.iter().map(|(label, wait)| label.len() + wait.bytes_beside_values()).sum()
            }
        }
    }
}

/// A decision that is to be taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenApproval {
    /// What votes name it by: the path of the step, told apart from earlier runs of it.
    pub id: String,
    /// What is asked.
    pub prompt: Option<String>,
    /// What is shown.
    pub show: Value,
    /// Who may vote; empty is anybody.
    pub approvers: Vec<String>,
    /// How many must say yes.
    pub quorum: u32,
    /// Votes so far, in order.
    pub votes: Vec<Vote>,
    /// When it has waited for too long.
    pub until: Option<Timestamp>,
}

impl OpenApproval {
    /// A decision that nobody has voted on yet.
    pub(crate) fn new(id: String, approvers: Vec<String>, quorum: u32) -> Self {
        let (prompt, show, votes, until) = (None, Value::NULL, Vec::new(), None);
        Self { id, prompt, show, approvers, quorum, votes, until }
    }

    /// Votes for yes.
    #[must_use]
    pub fn approvals(&self) -> u32 {
        self.votes.iter().filter(|vote| vote.approved).count() as u32
    }

    /// What the votes come to; none as long as it is open.
    #[must_use]
    pub fn decision(&self) -> Option<bool> {
        let approvals = self.approvals();
        let rejections = self.votes.len() as u32 - approvals;
        let lost = match self.approvers.len() as u32 {
            0 => rejections > 0,
            named => named - rejections.min(named) < self.quorum,
        };
        if approvals >= self.quorum { Some(true) } else { lost.then_some(false) }
    }
}

/// What one person says to an approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Vote {
    /// Who.
    pub by: String,
    /// Yes or no.
    pub approved: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// What the yes comes with.
    #[serde(default, skip_serializing_if = "is_null")]
    pub payload: Value,
}

fn is_null(value: &Value) -> bool {
    value.is_null()
}

impl Vote {
    /// Yes.
    pub fn approve(by: impl Into<String>) -> Self {
        let (by, comment) = (by.into(), String::new());
        Self { by, approved: true, comment, payload: Value::NULL }
    }

    /// No.
    pub fn reject(by: impl Into<String>) -> Self {
        Self { approved: false, ..Self::approve(by) }
    }

    /// Why.
    #[must_use]
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = text.into();
        self
    }

    /// What the yes comes with.
    #[must_use]
    pub fn payload(mut self, value: impl Into<Value>) -> Self {
        self.payload = value.into();
        self
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.approved { "approved" } else { "rejected" };
        write!(f, "{word} by {}", self.by)?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, ": {}", self.comment) }
    }
}

/// A named message to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Its name, with its key if it has one.
    pub name: String,
    /// What it carries.
    pub payload: Value,
    /// Whether it is only for a step that waits for it now; others are kept until one does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// The id of the one wait that it is for, if it is for one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who sends it, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What tells it from others, if it may be sent more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Signal {
    /// A signal that is kept until a step takes it.
    pub fn new(name: impl Into<String>, payload: impl Into<Value>) -> Self {
        let (name, payload) = (name.into(), payload.into());
        Self { name, payload, transient: false, to: None, by: None, id: None }
    }

    /// A signal for the step that waits for this name with this key: a text, a number or a boolean.
    ///
    /// ```
    /// use stepwell::journal::Signal;
    ///
    /// assert_eq!(Signal::keyed("paid", 42, ()).name, "paid[42]");
    /// ```
    pub fn keyed(name: impl Into<String>, key: impl Into<Json>, payload: impl Into<Value>) -> Self {
        let (name, key) = (name.into(), key.into());
        Self::new(Self::name_of(&name, &key), payload)
    }

    /// Only for the wait of this id, as [`RunHandle::waits`](crate::RunHandle::waits) tells it: of
    /// several that wait for the same name, such as the items of a for-each. It is refused when that
    /// one does not wait for it now.
    #[must_use]
    pub fn to(mut self, wait: impl Into<String>) -> Self {
        self.to = Some(wait.into());
        self
    }

    /// Who sends it, for those who ask later what has happened to the run.
    #[must_use]
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.by = Some(who.into());
        self
    }

    /// An id of the sender's, who may send it again, not knowing whether it came: a signal of an id that the
    /// run has taken is accepted and changes nothing, also after the run's end. The last
    /// [`SIGNAL_IDS_KEPT`](crate::run::SIGNAL_IDS_KEPT) ids of a run are known.
    ///
    /// ```
    /// use stepwell::journal::Signal;
    /// use stepwell::{Engine, Step, Wait, Workflow};
    ///
    /// let wait = |id| Step::wait(id, Wait::signal("paid"));
    /// let workflow = Workflow::builder("w").steps([wait("first"), wait("second")]).build()?;
    /// let engine = Engine::builder().build()?;
    /// # futures::executor::block_on(async {
    /// let run = engine.start(&workflow, ()).await?;
    /// let paid = Signal::new("paid", 30).id("payment-4711");
    /// run.signal_with(paid.clone()).await?;
    /// run.signal_with(paid).await?;
    /// assert_eq!(run.waits().len(), 1);
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Only for a step that waits for it now.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// The name of what has a key that a workflow computed.
    pub(crate) fn name_for(name: &str, key: &Json) -> Result<String, String> {
        match key {
            Json::String(_) | Json::Number(_) | Json::Bool(_) => Ok(Self::name_of(name, key)),
            other => Err(format!("a key is a text or a number, not {other:.40}")),
        }
    }

    fn name_of(name: &str, key: &Json) -> String {
        match key {
            Json::String(key) => format!("{name}[{key}]"),
            key => format!("{name}[{key}]"),
        }
    }
}
