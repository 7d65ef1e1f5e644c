//! Random changes of a definition.

use stepwell::journal::{Mapping, Operation};
use stepwell::run::RunState;
use stepwell::workflow::{Priority, Variable, VariableType};
use stepwell::{RetryConfig, Step, StepStatus, Trigger, Wait, Workflow};

/// What `modification` does.
pub(crate) const CHANGES: [&str; 7] =
    ["one more", "one less", "rewired", "when", "attempts", "variables", "one that always follows"];

/// A step more or one less among the outermost ones, others before one, or another setting.
pub(crate) fn modification(state: &RunState, which: usize, child: &Workflow) -> Option<Operation> {
    let mut definition = (**state.definition()?).clone();
    let (kind, which) = (which % CHANGES.len(), which / CHANGES.len());
    let open = state.steps().filter(|(step, status)| {
        step.scope == 0 && matches!(status, StepStatus::Pending | StepStatus::Ready)
    });
    let open: Vec<usize> = open.map(|(step, _)| step.step as usize).collect();
    // Now and then one that has begun, which is refused.
    let at = match open.as_slice() {
        [] => which % definition.steps.len(),
        open if !which.is_multiple_of(5) => open[which % open.len()],
        _ => which % definition.steps.len(),
    };
    let before = which / 3 % (at + 1);
    let id = definition.steps[before].id.clone();
    let step = &mut definition.steps[at];
    let gone = step.id.to_string();
    match kind {
        0 => {
            let after = step.id.clone();
            definition.steps.insert(at, Step::task(format!("m{which}"), "t").after(after));
        }
        1 => {
            let gone = definition.steps.remove(at).id;
            for step in &mut definition.steps {
                let lists = [&mut step.after, &mut step.on_failure, &mut step.otherwise];
                for ids in lists.into_iter().chain([&mut step.always]) {
                    ids.retain(|id| *id != gone);
                }
                step.on_error.retain(|_, ids| !ids.contains(&gone));
            }
        }
        // Often a circle, or after what it may not be after.
        2 if step.after.contains(&id) => step.after.retain(|other| *other != id),
        2 => step.after.push(id),
        3 => {
            step.priority = Priority::Urgent;
            step.when = Some("vars.count != 2".into());
            step.trigger = if which % 2 == 0 { None } else { Some(Trigger::AllDone) };
        }
        4 => {
            step.after.clear();
            *step = step.clone().retry(RetryConfig::attempts(2)).set("count", "output");
        }
        5 => {
            let variable = Variable::of(VariableType::Any).default_value(which);
            definition.variables.insert("extra".into(), variable);
            definition.variables.remove("most");
        }
        _ => {
            definition.steps[before].always.push(format!("a{which}").as_str().into());
            definition.steps.push(Step::wait(format!("a{which}"), Wait::signal("more")));
        }
    }
    definition.metadata.insert("change".into(), CHANGES[kind].into());
    let workflow = Box::new(Workflow::from_definition(definition).ok()?);
    let revision = state.revision() + u32::from(which.is_multiple_of(11));
    let mapping = match which % 4 {
        0 | 1 => None,
        2 => Some(Mapping::new()),
        _ => Some(Mapping::new().remove(gone)),
    };
    Some(Operation::Modify { workflow, linked: vec![child.clone()], revision, mapping })
}
