//! The executors that come with the crate; their table stands in the module above.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, json};

use super::{ExecutionContext, ExecutorRegistry, StepExecutor, filled};
use crate::error::{ErrorClass, StepError};
use crate::expr::Expr;
use crate::value::{Json, Value};

pub(super) fn register(registry: &mut ExecutorRegistry) {
    registry.register("input", Input);
    registry.register("process", Transform);
    registry.register("output", Output);
    registry.register("condition", Conditional);
    #[cfg(feature = "schema")]
    registry.register("validate", schema::Validate);
}

/// Fields that a configuration may have, all optional.
fn known_fields(config: &Json, fields: &[&str]) -> Result<(), String> {
    let given = match config {
        Json::Null => return Ok(()),
        Json::Object(given) => given,
        _ => return Err("the configuration must be an object".into()),
    };
    match given.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(unknown) => {
            Err(format!("there is no field `{unknown}`; known: {}", fields.join(", ")))
        }
        None => Ok(()),
    }
}

fn expression(config: &Json, place: &str) -> Result<(), String> {
    match config {
        Json::String(text) => match Expr::parse(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("`{place}`: {error}")),
        },
        _ => Err(format!("`{place}` must be an expression")),
    }
}

struct Input;

#[async_trait]
impl StepExecutor for Input {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let config = ctx.config();
        let mut prompt = config["prompt"].clone();
        if let Some(answer) = ctx.signal() {
            let missing: Vec<&str> = config["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Json::as_str)
                .filter(|name| answer.get(*name).is_none_or(Json::is_null))
                .collect();
            if missing.is_empty() {
                return Ok(answer);
            }
            prompt = json!({"prompt": prompt, "missing": missing});
        }
        let signal = config["signal"].as_str().map_or_else(|| ctx.step(), str::to_string);
        let timeout = match config["timeout"].as_str() {
            Some(text) => Some(crate::time::parse_duration(text)?),
            None => None,
        };
        Err(StepError::wait_for_signal(signal, prompt, timeout))
    }

    fn validate_config(&self, config: &Json) -> Result<(), String> {
        known_fields(config, &["prompt", "signal", "timeout", "required"])?;
        if let Some(timeout) = config.get("timeout") {
            let text = timeout.as_str().ok_or("`timeout` must be text like 5m")?;
            crate::time::parse_duration(text).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

struct Transform;

#[async_trait]
impl StepExecutor for Transform {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        if let Some(text) = ctx.config()["value"].as_str() {
            return ctx.evaluate(text);
        }
        let mut result = Map::new();
        for (name, text) in ctx.config()["set"].as_object().into_iter().flatten() {
            let value = ctx.evaluate(text.as_str().unwrap_or_default())?;
            result.insert(name.clone(), value.into_json());
        }
        Ok(result.into())
    }

    fn validate_config(&self, config: &Json) -> Result<(), String> {
        known_fields(config, &["set", "value"])?;
        match (config.get("set"), config.get("value")) {
            (Some(Json::Object(set)), None) => {
                set.iter().try_for_each(|(name, text)| expression(text, &format!("set.{name}")))
            }
            (None, Some(text)) => expression(text, "value"),
            _ => Err("give it `set`, a map of expressions, or `value`, an expression".into()),
        }
    }

    fn expressions(&self, config: &Json) -> Vec<String> {
        let set = config["set"].as_object().into_iter().flat_map(Map::values);
        set.chain(config.get("value"))
            .filter_map(|text| text.as_str().map(str::to_string))
            .collect()
    }
}

struct Output;

#[async_trait]
impl StepExecutor for Output {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        Ok(ctx.inputs().clone())
    }

    fn validate_config(&self, config: &Json) -> Result<(), String> {
        known_fields(config, &[])
    }
}

struct Conditional;

#[async_trait]
impl StepExecutor for Conditional {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        for case in ctx.config()["cases"].as_array().into_iter().flatten() {
            if ctx.evaluate(case["when"].as_str().unwrap_or_default())?.as_bool() == Some(true) {
                return Ok(case["value"].clone().into());
            }
        }
        Ok(ctx.config()["default"].clone().into())
    }

    fn validate_config(&self, config: &Json) -> Result<(), String> {
        known_fields(config, &["cases", "default"])?;
        let cases = config.get("cases").and_then(Json::as_array);
        let cases = cases.ok_or("`cases` must be a list of {when, value}")?;
        for (at, case) in cases.iter().enumerate() {
            known_fields(case, &["when", "value"])?;
            let when = case.get("when").unwrap_or(&Json::Null);
            expression(when, &format!("cases[{at}].when"))?;
        }
        Ok(())
    }

    fn expressions(&self, config: &Json) -> Vec<String> {
        let cases = config["cases"].as_array().into_iter().flatten();
        cases.filter_map(|case| case["when"].as_str().map(str::to_string)).collect()
    }
}

/// A language model, or anything else that answers a text.
#[async_trait]
pub trait AiModel: Send + Sync + 'static {
    /// Answers.
    async fn complete(&self, request: AiRequest) -> Result<Value, StepError>;
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AiRequest {
    /// Which model, as the step's configuration names it.
    pub model: Option<String>,
    /// What the model is told about its role.
    pub system: Option<String>,
    /// The question, with the step's inputs filled in.
    pub prompt: String,
    /// The step's inputs.
    pub inputs: Value,
}

/// Asks a model. Register it under the type that your workflows name:
///
/// ```
/// use serde_json::json;
/// use stepwell::executor::{Ai, ScriptedModel};
/// use stepwell::{Engine, Step, Workflow};
///
/// let model = ScriptedModel::new([json!("Looks good.")]);
/// let engine = Engine::builder().executor("ai", Ai::new(model)).build()?;
/// let workflow = Workflow::builder("review")
///     .step(Step::task("ask", "ai")
///         .config(json!({"prompt": "Review {diff}"}))
///         .input("diff", "input.diff"))
///     .build()?;
/// let run = futures::executor::block_on(engine.execute(&workflow, json!({"diff": "+1"})))?;
/// assert_eq!(run.output().unwrap(), "Looks good.");
/// # Ok::<(), stepwell::Error>(())
/// ```
pub struct Ai(Arc<dyn AiModel>);

impl Ai {
    /// Asks this model.
    pub fn new(model: impl AiModel) -> Self {
        Self(Arc::new(model))
    }
}

impl fmt::Debug for Ai {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ai(..)")
    }
}

#[async_trait]
impl StepExecutor for Ai {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let config = ctx.config();
        let text = |name: &str| config[name].as_str().map(str::to_string);
        let template = config["prompt"].as_str().unwrap_or_default();
        let named = |name: &str| Ok::<_, Infallible>(ctx.inputs().get(name).map(filled::text));
        let Ok(prompt) = filled::fill(template, named);
        let (model, system) = (text("model"), text("system"));
        let inputs = ctx.inputs().clone();
        self.0.complete(AiRequest { model, system, prompt, inputs }).await
    }

    fn validate_config(&self, config: &Json) -> Result<(), String> {
        known_fields(config, &["prompt", "system", "model"])?;
        match config["prompt"] {
            Json::String(_) => Ok(()),
            _ => Err("`prompt` must be text".into()),
        }
    }
}

/// A model for tests: gives these answers, one after the other, and remembers what it was asked.
#[derive(Clone, Debug, Default)]
pub struct ScriptedModel(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    answers: VecDeque<Json>,
    asked: Vec<AiRequest>,
}

impl ScriptedModel {
    /// A model that gives these answers.
    pub fn new(answers: impl IntoIterator<Item = Json>) -> Self {
        let answers = answers.into_iter().collect();
        Self(Arc::new(Mutex::new(Script { answers, asked: Vec::new() })))
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<AiRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }
}

#[async_trait]
impl AiModel for ScriptedModel {
    async fn complete(&self, request: AiRequest) -> Result<Value, StepError> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.asked.push(request);
        let answer = script.answers.pop_front();
        answer.map(Value::from).ok_or_else(|| {
            StepError::new(ErrorClass::Configuration, "the script has no more answers")
        })
    }
}

#[cfg(feature = "schema")]
pub use schema::{SchemaViolation, validate_schema};

#[cfg(feature = "schema")]
mod schema {
    use async_trait::async_trait;

    use super::known_fields;
    use crate::error::{ErrorClass, StepError};
    use crate::executor::{ExecutionContext, StepExecutor};
    use crate::value::{Json, Value};

    /// One way in which a value does not fit a schema.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct SchemaViolation {
        /// Where in the value, as a JSON Pointer (RFC 6901).
        pub path: String,
        /// What is wrong there.
        pub message: String,
    }

    /// Violations that are reported; a list of a million wrong items says enough with these.
    const VIOLATIONS_MAX: usize = 20;

    /// Every way in which a value does not fit a JSON Schema, up to 20.
    ///
    /// # Errors
    /// What is wrong with the schema itself. References to other documents are not followed.
    pub fn validate_schema(schema: &Json, value: &Json) -> Result<Vec<SchemaViolation>, String> {
        let validator = jsonschema::options().build(schema).map_err(|error| error.to_string())?;
        let violations = validator.iter_errors(value).take(VIOLATIONS_MAX);
        Ok(violations
            .map(|error| SchemaViolation {
                path: error.instance_path().to_string(),
                message: error.to_string(),
            })
            .collect())
    }

    pub(super) struct Validate;

    #[async_trait]
    impl StepExecutor for Validate {
        async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
            let value: Json = ctx.input("value")?;
            let invalid = |message| StepError::new(ErrorClass::Configuration, message);
            let violations = validate_schema(&ctx.config()["schema"], &value).map_err(invalid)?;
            if violations.is_empty() {
                return Ok(value.into());
            }
            let texts: Vec<String> =
                violations.iter().map(|v| format!("{}: {}", v.path, v.message)).collect();
            Err(StepError::new(ErrorClass::Validation, texts.join("; ")))
        }

        fn validate_config(&self, config: &Json) -> Result<(), String> {
            known_fields(config, &["schema"])?;
            let schema = config.get("schema").ok_or("`schema` is missing")?;
            validate_schema(schema, &Json::Null).map(drop)
        }
    }
}
