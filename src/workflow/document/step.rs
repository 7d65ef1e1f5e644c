//! A step as documents write it: one flat map, its kind told by the key that is there.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::wait::WaitDocument;
use crate::error::ErrorClass;
use crate::expr::Condition;
use crate::id::StepId;
use crate::retry::RetryConfig;
use crate::value::{Json, Value};
use crate::workflow::kind::{Case, LoopCondition, StepKind, When};
use crate::workflow::settings::{Metadata, OnUnknown, Priority, Resources, Trigger};
use crate::workflow::step::{MISPLACED, Step, TURNS_DEFAULT};
use crate::workflow::{Amount, Lock, Wait};

/// A step in a document. Exactly one of `task`, `parallel`, `sequence`, `choice`, `foreach`,
/// `while`, `until`, `wait`, `dynamic` and `workflow` says what it does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The fields are those of `Step` and `StepKind`, where they are explained.
pub struct StepDocument {
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub id: Option<StepId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Json>"))]
    pub config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<Vec<Step>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Vec<Step>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<CaseDocument>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreach: Option<String>,
    #[serde(default, rename = "while", skip_serializing_if = "Option::is_none")]
    pub while_: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_run: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<Step>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enough: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerates: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub after: OneOrMany,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub on_success: OneOrMany,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub on_failure: OneOrMany,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub on_error: BTreeMap<ErrorClass, OneOrMany>,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub otherwise: OneOrMany,
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub always: OneOrMany,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_rest: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Box<Step>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finally: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryConfig>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::time::duration_option"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::time::LengthOfTime>"))]
    pub timeout: Option<Duration>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::time::duration_option"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::time::LengthOfTime>"))]
    pub attempt_timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocking: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_most_once: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_unknown: Option<OnUnknown>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transactional: bool,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// One case of a `choice`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CaseDocument {
    /// When to take it; left out in the last case, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// What to run.
    pub steps: Vec<Step>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TryFrom<StepDocument> for Step {
    type Error = String;

    fn try_from(mut document: StepDocument) -> Result<Self, String> {
        let id = document.id.take().or_else(|| document.task.as_deref().map(StepId::from));
        let Some(id) = id else {
            return Err("a step needs an `id`".into());
        };
        let kind = kind(&mut document).map_err(|reason| format!("step `{id}`: {reason}"))?;
        Ok(Self {
            id,
            name: document.name,
            description: document.description,
            kind,
            after: document.after.0,
            on_success: document.on_success.0,
            on_failure: document.on_failure.0,
            on_error: document.on_error.into_iter().map(|(class, ids)| (class, ids.0)).collect(),
            otherwise: document.otherwise.0,
            always: document.always.0,
            when: document.when,
            trigger: document.trigger,
            cancel_rest: document.cancel_rest,
            compensate: document.compensate,
            finally: document.finally,
            inputs: document.inputs,
            outputs: document.outputs,
            set: document.set,
            output_schema: document.output_schema,
            retry: document.retry,
            timeout: document.timeout,
            attempt_timeout: document.attempt_timeout,
            priority: document.priority,
            resources: document.resources,
            locks: document.locks,
            capability: document.capability,
            blocking: document.blocking,
            at_most_once: document.at_most_once,
            on_unknown: document.on_unknown,
            transactional: document.transactional,
            metadata: document.metadata,
        })
    }
}

/// The kind, from the one key that tells it; keys that belong to other kinds are refused.
fn kind(document: &mut StepDocument) -> Result<StepKind, String> {
    const KINDS: &str =
        "task, parallel, sequence, choice, foreach, while, until, wait, dynamic or workflow";
    let given = super::given_of([
        (document.task.is_some(), "task"),
        (document.parallel.is_some(), "parallel"),
        (document.sequence.is_some(), "sequence"),
        (document.choice.is_some(), "choice"),
        (document.foreach.is_some(), "foreach"),
        (document.while_.is_some(), "while"),
        (document.until.is_some(), "until"),
        (document.wait.is_some(), "wait"),
        (document.dynamic.is_some(), "dynamic"),
        (document.workflow.is_some(), "workflow"),
    ]);
    let [name] = given[..] else {
        return Err(match given.as_slice() {
            [] => format!("says nothing that it does; give it {KINDS}"),
            several => format!("has {}; a step does one thing", several.join(" and ")),
        });
    };
    for (given, field, kinds) in [
        (document.config.is_some(), "config", &["task"][..]),
        (document.input.is_some(), "input", &["workflow"]),
        (!document.variables.is_empty(), "variables", &["workflow"]),
        (!document.may_run.is_empty(), "may_run", &["dynamic"]),
        (document.steps.is_some(), "steps", &["foreach", "while", "until"]),
        (document.concurrency.is_some(), "concurrency", &["foreach"]),
        (document.enough.is_some(), "enough", &["foreach"]),
        (document.tolerates.is_some(), "tolerates", &["foreach"]),
        (document.max_turns.is_some(), "max_turns", &["while", "until"]),
    ] {
        if given && !kinds.contains(&name) {
            return Err(format!("`{field}` goes with {}, not with `{name}`", kinds.join(", ")));
        }
    }
    let body = document.steps.take();
    let max_turns = document.max_turns.unwrap_or(TURNS_DEFAULT);
    let concurrency = document.concurrency.unwrap_or(0);
    let need_body = || body.clone().ok_or_else(|| format!("`{name}` needs `steps`"));
    let config = document.config.take().unwrap_or_default();
    if let Some(executor) = document.task.take() {
        Ok(StepKind::Task { executor, config })
    } else if let Some(steps) = document.parallel.take() {
        Ok(StepKind::Parallel(steps))
    } else if let Some(steps) = document.sequence.take() {
        Ok(StepKind::Sequence(steps))
    } else if let Some(cases) = document.choice.take() {
        let cases = cases.into_iter().map(|case| Case { when: case.when, steps: case.steps });
        Ok(StepKind::Choice(cases.collect()))
    } else if let Some(items) = document.foreach.take() {
        let (enough, tolerates) = (document.enough, document.tolerates);
        Ok(StepKind::ForEach { items, concurrency, enough, tolerates, body: need_body()? })
    } else if let Some(when) = document.while_.take() {
        Ok(StepKind::Loop { condition: LoopCondition::While(when), max_turns, body: need_body()? })
    } else if let Some(when) = document.until.take() {
        Ok(StepKind::Loop { condition: LoopCondition::Until(when), max_turns, body: need_body()? })
    } else if let Some(wait) = document.wait.take() {
        Wait::try_from(wait).map(StepKind::Wait)
    } else if let Some(steps) = document.dynamic.take() {
        Ok(StepKind::Dynamic { steps, workflows: std::mem::take(&mut document.may_run) })
    } else {
        let name = document.workflow.take().unwrap_or_default();
        let variables = std::mem::take(&mut document.variables);
        Ok(StepKind::Workflow { name, input: document.input.take(), variables })
    }
}

impl From<Step> for StepDocument {
    fn from(mut step: Step) -> Self {
        step.metadata.remove(MISPLACED);
        let mut document = Self {
            id: Some(step.id),
            name: step.name,
            description: step.description,
            after: OneOrMany(step.after),
            on_success: OneOrMany(step.on_success),
            on_failure: OneOrMany(step.on_failure),
            on_error: step.on_error.into_iter().map(|(c, ids)| (c, OneOrMany(ids))).collect(),
            otherwise: OneOrMany(step.otherwise),
            always: OneOrMany(step.always),
            when: step.when,
            trigger: step.trigger,
            cancel_rest: step.cancel_rest,
            compensate: step.compensate,
            finally: step.finally,
            inputs: step.inputs,
            outputs: step.outputs,
            set: step.set,
            output_schema: step.output_schema,
            retry: step.retry,
            timeout: step.timeout,
            attempt_timeout: step.attempt_timeout,
            priority: step.priority,
            resources: step.resources,
            locks: step.locks,
            capability: step.capability,
            blocking: step.blocking,
            at_most_once: step.at_most_once,
            on_unknown: step.on_unknown,
            transactional: step.transactional,
            metadata: step.metadata,
            ..Self::default()
        };
        match step.kind {
            StepKind::Task { executor, config } => {
                document.task = Some(executor);
                document.config = (!config.is_null()).then_some(config);
            }
            StepKind::Parallel(steps) => document.parallel = Some(steps),
            StepKind::Sequence(steps) => document.sequence = Some(steps),
            StepKind::Choice(cases) => {
                let cases =
                    cases.into_iter().map(|c| CaseDocument { when: c.when, steps: c.steps });
                document.choice = Some(cases.collect());
            }
            StepKind::ForEach { items, concurrency, enough, tolerates, body } => {
                (document.enough, document.tolerates) = (enough, tolerates);
                document.foreach = Some(items);
                document.concurrency = (concurrency > 0).then_some(concurrency);
                document.steps = Some(body);
            }
            StepKind::Loop { condition, max_turns, body } => {
                match condition {
                    LoopCondition::While(when) => document.while_ = Some(when),
                    LoopCondition::Until(when) => document.until = Some(when),
                }
                document.max_turns = Some(max_turns);
                document.steps = Some(body);
            }
            StepKind::Wait(wait) => document.wait = Some(wait.into()),
            StepKind::Dynamic { steps, workflows } => {
                (document.dynamic, document.may_run) = (Some(steps), workflows);
            }
            StepKind::Workflow { name, input, variables } => {
                document.workflow = Some(name);
                document.variables = variables;
                document.input = input;
            }
        }
        document
    }
}

/// Ids of steps: one, or a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OneOrMany(pub Vec<StepId>);

impl OneOrMany {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a step, or a list of ids")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![id.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(OneOrMany(ids))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Structured(condition) => condition.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = When;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or {field, operator, value}, {all}, {any}, {not}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<When, E> {
                Ok(When::Text(text.into()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<When, E> {
                Ok(When::Text(value.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<When, A::Error> {
                Condition::deserialize(MapAccessDeserializer::new(map)).map(When::Structured)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{OneOrMany, StepDocument};
    use crate::workflow::{Step, When};

    impl JsonSchema for Step {
        fn schema_name() -> Cow<'static, str> {
            "Step".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            StepDocument::json_schema(generator)
        }
    }

    impl JsonSchema for OneOrMany {
        fn schema_name() -> Cow<'static, str> {
            "StepIds".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
            ]})
        }
    }

    impl JsonSchema for When {
        fn schema_name() -> Cow<'static, str> {
            "Condition".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let this = generator.subschema_for::<Self>();
            let operators = [
                "equals",
                "not_equals",
                "contains",
                "greater_than",
                "greater_or_equal",
                "less_than",
                "less_or_equal",
                "in",
                "exists",
                "matches",
                "==",
                "!=",
                ">",
                ">=",
                "<",
                "<=",
            ];
            json_schema!({"anyOf": [
                {"type": "string", "description": "An expression, as in tests.coverage > 80%"},
                {"type": "boolean"},
                {"type": "object", "required": ["field", "operator"], "additionalProperties": false,
                 "properties": {"field": {"type": "string"}, "operator": {"enum": operators}, "value": true}},
                {"type": "object", "required": ["all"], "additionalProperties": false,
                 "properties": {"all": {"type": "array", "items": this}}},
                {"type": "object", "required": ["any"], "additionalProperties": false,
                 "properties": {"any": {"type": "array", "items": this}}},
                {"type": "object", "required": ["not"], "additionalProperties": false,
                 "properties": {"not": this}},
            ]})
        }
    }
}
