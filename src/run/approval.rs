//! Decisions that people take.

use serde_json::json;

use super::RunState;
use super::bounds;
use super::command::Rejection;
use super::turn::Turn;
use super::wait::wait_of;
use crate::error::ErrorClass;
use crate::id::StepKey;
use crate::journal::{Event, OpenApproval, Vote, Waiting};
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::{ApprovalOf, WaitFor};

impl Turn<'_> {
    pub(super) fn open_approval(
        &self,
        step: StepKey,
        approval: &ApprovalOf,
        until: Option<Timestamp>,
    ) -> Result<OpenApproval, String> {
        let value = |expr: &crate::expr::Expr| {
            expr.evaluate(&self.view(step)).map_err(|error| error.to_string())
        };
        let approvers = match &approval.approvers_from {
            Some(expr) => names(value(expr)?)?,
            None => approval.approvers.clone(),
        };
        // Nobody could vote by such a name.
        for name in &approvers {
            bounds::person(name).map_err(|wrong| wrong.to_string())?;
        }
        let named = approvers.len() as u32;
        let quorum = approval.quorum.at_least(named).max(1);
        if named > 0 && quorum > named {
            return Err(format!("it takes {quorum} of {named} approvers"));
        }
        if named == 0 && approval.approvers_from.is_some() {
            return Err("nobody may approve: the list of approvers is empty".into());
        }
        let mut open = OpenApproval::new(self.state.instance(step), approvers, quorum);
        open.prompt = approval.prompt.clone();
        open.show = approval.show.as_ref().map_or(Ok(Json::Null), value)?.into();
        self.fits_in(open.show.bytes()).map_err(|wrong| format!("what is shown {wrong}"))?;
        open.until = until;
        Ok(open)
    }

    pub(super) fn vote(&mut self, id: &str, vote: Vote) -> Result<(), Rejection> {
        let step = *self.state.expected().approvals.get(id).ok_or(Rejection::NoSuchApproval)?;
        let open = self.state.approval(step).ok_or(Rejection::NoSuchApproval)?;
        let named = open.approvers.is_empty() || open.approvers.contains(&vote.by);
        if vote.by.trim().is_empty() || !named {
            return Err(Rejection::NoApprover(vote.by));
        }
        if open.votes.iter().any(|other| other.by == vote.by) {
            return Err(Rejection::VotedAlready(vote.by));
        }
        if let Some(WaitFor::Approval(approval, _)) = wait_of(self.state, step)
            && let Some(schema) = approval.schema.as_ref().filter(|_| vote.approved)
        {
            let fits = schema.check(&vote.payload, "payload");
            fits.map_err(|wrong| Rejection::Payload(wrong.to_string()))?;
        }
        let size = self.fits_in(vote.payload.bytes());
        size.map_err(|wrong| Rejection::Payload(format!("the payload {wrong}")))?;
        let text = vote.to_string();
        self.emit(Event::Voted { step, vote: Box::new(vote) });
        match self.state.approval(step).and_then(OpenApproval::decision) {
            Some(true) => {
                let output = json!({"approved": true, "votes": self.votes(step)});
                self.succeed(step, output.into());
            }
            Some(false) => self.fail(step, ErrorClass::Rejected, text),
            None => {}
        }
        Ok(())
    }

    /// What an approval comes to that has waited for too long and goes on.
    pub(super) fn undecided(&self, step: StepKey) -> Value {
        json!({"approved": false, "timed_out": true, "votes": self.votes(step)}).into()
    }

    fn votes(&self, step: StepKey) -> Json {
        let open = self.state.approval(step);
        // Votes are texts, booleans and values; all of them can be written as JSON.
        open.and_then(|open| serde_json::to_value(&open.votes).ok()).unwrap_or_default()
    }
}

impl RunState {
    /// The decision that a step waits for.
    pub(super) fn approval(&self, step: StepKey) -> Option<&OpenApproval> {
        match self.cell(step)?.waiting()? {
            Waiting::Approval(open) => Some(open),
            _ => None,
        }
    }

    /// Every decision that is to be taken now, each with the path of its step.
    pub fn approvals(&self) -> impl Iterator<Item = (String, &OpenApproval)> + '_ {
        let steps = self.expected().approvals.values();
        steps.filter_map(|step| Some((self.path(*step), self.approval(*step)?)))
    }

    pub(super) fn count_vote(&mut self, step: StepKey, vote: &Vote) {
        let more = self.cell_mut(step).and_then(|cell| cell.more.as_mut());
        if let Some(Waiting::Approval(open)) = more.and_then(|more| more.waiting.as_mut()) {
            open.votes.push(vote.clone());
        }
    }
}

/// Who may vote, from a value that an expression gave.
fn names(value: Json) -> Result<Vec<String>, String> {
    let Json::Array(items) = value else {
        return Err(format!("approvers are a list of names, not {value:.40}"));
    };
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Json::String(name) if !name.trim().is_empty() => {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            other => return Err(format!("an approver is a name, not {other:.40}")),
        }
    }
    Ok(names)
}
