//! Waits of a definition, made ready.

use super::compile::Compiler;
use super::program::{ApprovalOf, WaitFor};
use super::{Amount, Approval, Wait, variable};
use crate::error::Problem;
use crate::expr::Schema;
use crate::id::check_name;
use crate::value::Json;

impl Compiler<'_> {
    pub(super) fn wait(&mut self, wait: &Wait, place: &str) -> Option<WaitFor> {
        Some(match wait {
            Wait::For(length) => WaitFor::Duration(*length),
            Wait::Until(text) => {
                let place = format!("{place}.until");
                // A time may stand there as it is, without the quotes of a text.
                match text.parse::<crate::time::Timestamp>() {
                    Ok(_) => WaitFor::Time(self.expression(&format!("'{text}'"), &place)?),
                    Err(_) => WaitFor::Time(self.expression(text, &place)?),
                }
            }
            Wait::Condition { condition, timeout } => {
                let place = format!("{place}.condition");
                WaitFor::Condition(self.condition(condition, &place, &[], false)?, timeout.clone())
            }
            Wait::Signal { name, key, schema, timeout } => {
                // Brackets stand around keys.
                if let Err(reason) = check_name(name, &['[', ']']) {
                    self.problems.push(Problem::error(format!("{place}.signal"), reason));
                }
                let key = match key {
                    Some(text) => Some(self.expression(text, &format!("{place}.key"))?),
                    None => None,
                };
                let schema = self.schema(schema.as_ref(), &format!("{place}.schema"))?;
                WaitFor::Signal { name: name.clone(), key, schema, timeout: timeout.clone() }
            }
            Wait::Approval { approval, timeout } => {
                let approval = self.approval(approval, &format!("{place}.approval"))?;
                WaitFor::Approval(Box::new(approval), timeout.clone())
            }
            Wait::First(ways) => self.first(ways, &format!("{place}.first"))?,
        })
    }

    fn first(&mut self, ways: &[(String, Wait)], place: &str) -> Option<WaitFor> {
        if ways.len() < 2 {
            let message = "of several waits the first counts; there are not two";
            self.problems.push(Problem::error(place, message));
        }
        let mut compiled = Vec::with_capacity(ways.len());
        for (at, (label, wait)) in ways.iter().enumerate() {
            let place = format!("{place}[{at}]");
            let limited = match wait {
                Wait::First(_) | Wait::Approval { .. } => {
                    let message = "an approval, or another `first`, cannot stand here";
                    self.problems.push(Problem::error(place, message));
                    return None;
                }
                Wait::Condition { timeout, .. } | Wait::Signal { timeout, .. } => timeout.is_some(),
                Wait::For(_) | Wait::Until(_) => false,
            };
            if limited {
                let message = "one of several waits has no `timeout` of its own";
                let problem = Problem::error(&place, message);
                self.problems.push(problem.hint("add a way with `for`"));
            }
            if ways[..at].iter().any(|(other, _)| other == label) {
                let message = format!("the label `{label}` is there twice");
                self.problems.push(Problem::error(&place, message));
            }
            compiled.push((label.clone(), self.wait(wait, &place)?));
        }
        Some(WaitFor::First(compiled))
    }

    fn approval(&mut self, approval: &Approval, place: &str) -> Option<ApprovalOf> {
        let Approval { approvers, approvers_from, quorum, prompt, show, schema } = approval;
        let quorum = quorum.unwrap_or(Amount::Count(1));
        let nobody = approvers.as_ref().is_some_and(Vec::is_empty);
        let anybody = approvers.is_none() && approvers_from.is_none();
        let approvers = approvers.clone().unwrap_or_default();
        let named = approvers.len() as u32;
        let mut wrong = |field: &str, message: String| {
            self.problems.push(Problem::error(format!("{place}.{field}"), message));
        };
        if let Some(problem) = quorum.problem() {
            wrong("quorum", problem.into());
        }
        if nobody {
            wrong("approvers", "nobody may approve: the list is empty".into());
        }
        if anybody && matches!(quorum, Amount::Percent(_)) {
            wrong("quorum", "a percentage needs approvers that are named".into());
        }
        if !approvers.is_empty() && quorum.at_least(named) > named {
            wrong("quorum", format!("it takes {quorum} of {named} approvers"));
        }
        for (at, name) in approvers.iter().enumerate() {
            if name.trim().is_empty() {
                wrong("approvers", "an approver has no name".into());
            } else if approvers[..at].contains(name) {
                wrong("approvers", format!("`{name}` is there twice"));
            }
        }
        let mut expression = |text: &Option<String>, field: &str| match text {
            Some(text) => self.expression(text, &format!("{place}.{field}")).map(Some),
            None => Some(None),
        };
        Some(ApprovalOf {
            approvers,
            approvers_from: expression(approvers_from, "approvers")?,
            quorum,
            prompt: prompt.clone(),
            show: expression(show, "show")?,
            schema: self.schema(schema.as_ref(), &format!("{place}.schema"))?,
        })
    }

    fn schema(&mut self, source: Option<&Json>, place: &str) -> Option<Option<Schema>> {
        match source {
            Some(source) => variable::read(source, place, self.problems).map(Some),
            None => Some(None),
        }
    }
}
