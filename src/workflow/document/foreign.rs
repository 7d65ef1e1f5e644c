//! Two shapes that people already write, read into stepwell's own.
//!
//! **Tasks with dependencies**, as in `{"name": "build", "tasks": [{"id": "a", "type": "shell",
//! "dependencies": []}]}`. The workflow's id is its name.
//!
//! **A list of tasks**, as in `- task: run_tests`, `on_success: deploy`, `on_failure: notify`,
//! `condition: "lint.warnings == 0"`. A task's id and executor are its name; `type` names another
//! executor. A task that is only named by `on_success` or `on_failure` is added. The condition
//! belongs to the task that it stands with: it runs only if it holds; but a condition on the task's
//! own result is one on what follows its success. Conditions in this shape name tasks by their last
//! word, too: `tests.coverage` is that of `run_tests`, if no other task ends like that. The
//! workflow's id is `workflow`.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::step::OneOrMany;
use crate::expr::Expr;
use crate::id::StepId;
use crate::retry::RetryConfig;
use crate::value::Value;
use crate::workflow::kind::{StepKind, When};
use crate::workflow::settings::Priority;
use crate::workflow::{Definition, Step};

/// Tasks with dependencies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TasksDocument {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    pub tasks: Vec<TaskDocument>,
}

/// One task with dependencies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TaskDocument {
    pub id: StepId,
    #[serde(rename = "type")]
    pub executor: String,
    #[serde(default)]
    pub dependencies: OneOrMany,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub config: Option<Value>,
    #[serde(default)]
    pub condition: Option<When>,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default)]
    pub retry: Option<RetryConfig>,
}

/// A list of tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListDocument(pub Vec<ListedTask>);

/// One task of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ListedTask {
    pub task: StepId,
    #[serde(default, rename = "type")]
    pub executor: Option<String>,
    #[serde(default)]
    pub config: Option<Value>,
    #[serde(default)]
    pub after: OneOrMany,
    #[serde(default)]
    pub on_success: OneOrMany,
    #[serde(default)]
    pub on_failure: OneOrMany,
    #[serde(default)]
    pub condition: Option<When>,
    #[serde(default)]
    pub retry: Option<RetryConfig>,
}

impl From<TasksDocument> for Definition {
    fn from(document: TasksDocument) -> Self {
        let mut definition = Self::new(document.name);
        definition.description = document.description;
        if let Some(version) = document.version {
            match version.parse() {
                Ok(number) => definition.version = Some(number),
                // Such as `1.2`, which is for people.
                Err(_) => drop(definition.metadata.insert("version".into(), version.into())),
            }
        }
        definition.steps = document.tasks.into_iter().map(Step::from).collect();
        definition
    }
}

impl From<TaskDocument> for Step {
    fn from(task: TaskDocument) -> Self {
        let config = task.config.unwrap_or_default();
        let mut step = Self::new(task.id, StepKind::Task { executor: task.executor, config });
        step.name = task.name;
        step.description = task.description;
        step.after = task.dependencies.0;
        step.when = task.condition;
        step.priority = task.priority;
        step.retry = task.retry;
        step
    }
}

impl From<ListDocument> for Definition {
    fn from(document: ListDocument) -> Self {
        let mut definition = Self::new("workflow");
        let mut known: HashSet<StepId> = document.0.iter().map(|task| task.task.clone()).collect();
        let mut named = Vec::new();
        for task in document.0 {
            named.extend(task.on_success.0.iter().chain(&task.on_failure.0).cloned());
            definition.steps.push(task.into());
        }
        for id in named {
            if known.insert(id.clone()) {
                definition.steps.push(Step::task(id.clone(), id.as_str()));
            }
        }
        spell_out(&mut definition.steps, &known);
        definition
    }
}

/// Gives conditions the full names of tasks, and moves those on a task's own result to what follows.
fn spell_out(steps: &mut [Step], known: &HashSet<StepId>) {
    let mut by_last_word: HashMap<&str, Vec<&StepId>> = HashMap::new();
    for id in known {
        by_last_word.entry(last_word(id.as_str())).or_default().push(id);
    }
    let mut moved = Vec::new();
    for step in steps.iter_mut() {
        let Some(When::Text(text)) = &mut step.when else { continue };
        // A text that cannot be parsed has its error told with all the others.
        let Ok(expr) = Expr::parse(text) else { continue };
        let mut mentions = expr.mentions();
        mentions.sort_by_key(|mention| std::cmp::Reverse(mention.span.start));
        let mut own = false;
        for mention in mentions {
            let name = mention.step.as_str();
            let meant = match by_last_word.get(name).map(Vec::as_slice) {
                _ if known.contains(name) => &mention.step,
                Some([only]) => *only,
                _ => continue,
            };
            own |= *meant == step.id;
            let begin = mention.span.start as usize;
            if meant.as_str() != name && text.get(begin..).is_some_and(|t| t.starts_with(name)) {
                text.replace_range(begin..begin + name.len(), meant.as_str());
            }
        }
        if own && !step.on_success.is_empty() {
            moved.extend(step.on_success.iter().cloned().zip(std::iter::repeat(text.clone())));
            step.when = None;
        }
    }
    if moved.is_empty() {
        return;
    }
    let places: HashMap<StepId, usize> =
        steps.iter().enumerate().map(|(at, step)| (step.id.clone(), at)).collect();
    for (id, condition) in moved {
        let Some(step) = places.get(&id).and_then(|at| steps.get_mut(*at)) else { continue };
        step.when = Some(When::Text(match step.when.take() {
            Some(When::Text(text)) => format!("({text}) and ({condition})"),
            Some(When::Structured(other)) => format!("({other}) and ({condition})"),
            None => condition,
        }));
    }
}

fn last_word(id: &str) -> &str {
    id.rsplit(['_', '-', ' ', '.']).next().unwrap_or(id)
}

impl From<ListedTask> for Step {
    fn from(task: ListedTask) -> Self {
        let executor = task.executor.unwrap_or_else(|| task.task.to_string());
        let config = task.config.unwrap_or_default();
        let mut step = Self::new(task.task, StepKind::Task { executor, config });
        step.after = task.after.0;
        step.on_success = task.on_success.0;
        step.on_failure = task.on_failure.0;
        step.when = task.condition;
        step.retry = task.retry;
        step
    }
}
