//! An HTTP request.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::filled::{Filled, fill, filled, opened, text, without_secrets};
use super::redirect::redirected;
use super::{ExecutionContext, StepExecutor};
use crate::error::{ErrorClass, StepError};
use crate::value::{Json, Value};

/// Bytes of an answer; a longer one fails the step.
pub const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Sends an HTTP request and waits for the answer, on a thread that may block.
///
/// Configuration: `url`, `method` (default `GET`), `headers` (names to texts) and `timeout` (default
/// `30s`, for the whole exchange). `{name}` in the URL's path or query is an input of the step,
/// percent-encoded and neither `.` nor `..`, so that no value can lead elsewhere. `{name}` in a header
/// is an input as it is; a name without an input fails the step. Two inputs have a meaning of their own:
/// `query`, a map of query parameters, and `body`, sent as JSON. A method that changes something carries
/// the step's idempotency key as the header `Idempotency-Key`.
///
/// Inputs in headers, and values anywhere in `body`, may be sealed secrets: they are opened for this
/// request alone, and taken out of what comes back. In the URL they are refused: servers and proxies
/// write URLs down.
///
/// The output holds `status`, `headers` (lower-case names) and `body`: JSON if the answer says that
/// it is, else text. A status from 400 on fails the step with the class that fits it, and with the
/// delay of a `Retry-After` header in seconds (RFC 9110, section 10.2.3). A step that is stopped does
/// not wait for its request, which ends by itself.
///
/// Up to five redirects are followed. To another scheme, host or port no header goes that holds a
/// secret, nor do `Authorization` and `Cookie`. A body is never sent on.
///
/// ```
/// use serde_json::json;
/// use stepwell::executor::HttpRequest;
/// use stepwell::{Engine, Step};
///
/// let engine = Engine::builder().executor_factory("http", HttpRequest::from_config).build()?;
/// let step = Step::task("user", "http")
///     .config(json!({
///         "url": "https://api.example.com/users/{id}",
///         "headers": {"authorization": "Bearer {token}"}
///     }))
///     .input("id", "input.user")
///     .input("token", "vars.token");
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpRequest {
    config: Config,
    method: Method,
    timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    timeout: Option<String>,
}

const TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: u32 = 5;

impl HttpRequest {
    /// The executor for a step with this configuration: a factory for
    /// [`EngineBuilder::executor_factory`](crate::EngineBuilder::executor_factory).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_config(config: &Json) -> Result<Self, String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        if !config.url.starts_with("https://") && !config.url.starts_with("http://") {
            return Err("`url` must begin with https:// or http://".into());
        }
        let host = config.url.split("://").nth(1).unwrap_or_default();
        if host.split(['/', '?', '#']).next().unwrap_or_default().contains('{') {
            return Err("`url`: no input may stand in the host".into());
        }
        let method = config.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`method`: `{method}` is no method"))?;
        let timeout = match config.timeout.as_deref().map(crate::time::parse_duration) {
            Some(Ok(timeout)) => timeout,
            Some(Err(error)) => return Err(format!("`timeout`: {error}")),
            None => TIMEOUT,
        };
        let executor = Self { config, method, timeout };
        // Headers that cannot be sent are found before the run starts.
        let headers = executor.config.headers.iter();
        let probe =
            headers.fold(Request::builder(), |probe, (name, text)| probe.header(name, text));
        probe.body(()).map_err(|error| format!("`headers`: {error}"))?;
        Ok(executor)
    }

    fn request(&self, ctx: &ExecutionContext) -> Result<Request<Vec<u8>>, StepError> {
        let inputs = ctx.inputs();
        for (name, value) in inputs.as_object().into_iter().flatten() {
            // Dots cannot be encoded away: servers and proxies take `%2E%2E` for `..`, too.
            if matches!(value.as_str(), Some("." | "..")) {
                let message = format!("input `{name}` may not be `.` or `..`");
                return Err(StepError::new(ErrorClass::Validation, message));
            }
        }
        let url = url(&self.config.url, inputs)?;
        let mut builder = Request::builder().method(self.method.clone()).uri(url);
        for (name, template) in &self.config.headers {
            builder = builder.header(name, header(ctx, name, template)?);
        }
        if !self.method.is_safe() {
            builder = builder.header("idempotency-key", ctx.idempotency_key());
        }
        let body = match inputs.get("body") {
            Some(body) => {
                builder = builder.header("content-type", "application/json");
                serde_json::to_vec(&opened(ctx, "body", body)?)?
            }
            None => Vec::new(),
        };
        let invalid = |error| StepError::new(ErrorClass::Validation, format!("request: {error}"));
        builder.body(body).map_err(invalid)
    }
}

#[async_trait]
impl StepExecutor for HttpRequest {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let request = self.request(&ctx)?;
        let timeout = self.timeout;
        blocking::unblock(move || send(request, timeout, &ctx)).await
    }
}

/// Why a secret cannot be a part of the URL, and what to do.
const SEEN: &str = "servers and proxies write URLs down; \
    name the input in `headers`, as {name}, or send it in `body`";

/// The URL with inputs filled in and the query added.
fn url(template: &str, inputs: &Json) -> Result<String, StepError> {
    let written = |name: &str, value| -> Result<String, StepError> {
        without_secrets(name, value, SEEN)?;
        Ok(encoded(text(value)))
    };
    let mut url =
        fill(template, |name| inputs.get(name).map(|value| written(name, value)).transpose())?;
    without_secrets("query", &inputs["query"], SEEN)?;
    for (name, value) in inputs["query"].as_object().into_iter().flatten() {
        let sign = if url.contains('?') { '&' } else { '?' };
        let _ = write!(url, "{sign}{}={}", encoded(name.clone()), encoded(text(value)));
    }
    Ok(url)
}

/// The value of a header with inputs filled in; a secret makes it sensitive.
fn header(ctx: &ExecutionContext, name: &str, template: &str) -> Result<HeaderValue, StepError> {
    let place = format!("headers.{name}");
    let Filled { text, is_secret } = filled(ctx, &place, template)?;
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        let message = format!(
            "`{place}`: an input puts a character into it that no header can hold, such as a line \
             break; take it out of the input"
        );
        StepError::new(ErrorClass::Validation, message)
    })?;
    value.set_sensitive(is_secret);
    Ok(value)
}

/// Everything but unreserved characters as `%` and two digits (RFC 3986, section 2).
fn encoded(text: String) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    safe
}

fn send(
    request: Request<Vec<u8>>,
    timeout: Duration,
    ctx: &ExecutionContext,
) -> Result<Value, StepError> {
    let (parts, body) = exchange(request, timeout, ctx)?.into_parts();
    let body = body.into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let body = body.map_err(|error| failure(&error))?;
    if parts.status.is_client_error() || parts.status.is_server_error() {
        let said = ctx.scrubbed(String::from_utf8_lossy(&body).into_owned());
        return Err(refusal(parts.status, &parts.headers, &said));
    }
    let headers: BTreeMap<&str, _> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let is_json = headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    let body = match is_json {
        true => serde_json::from_slice(&body).map_err(|error| {
            StepError::new(ErrorClass::ServerError, format!("the answer is no JSON: {error}"))
        })?,
        false => Json::from(String::from_utf8_lossy(&body)),
    };
    Ok(json!({"status": parts.status.as_u16(), "headers": headers, "body": body}).into())
}

/// The answer of the last server that the request is sent on to.
fn exchange(
    mut request: Request<Vec<u8>>,
    timeout: Duration,
    ctx: &ExecutionContext,
) -> Result<Response<ureq::Body>, StepError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        // The agent would take headers with secrets to whatever host an answer names.
        .max_redirects(0)
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .build()
        .into();
    let until = ctx.now() + timeout;
    for _ in 0..=REDIRECTS_MAX {
        let asked = request.clone().map(drop);
        let left = until.since(ctx.now());
        let request_in_time = agent.configure_request(request).timeout_global(Some(left)).build();
        let answer = agent.run(request_in_time).map_err(|error| failure(&error))?;
        match redirected(asked, &answer)? {
            Some(next) => request = next,
            None => return Ok(answer),
        }
    }
    Err(failure(&ureq::Error::TooManyRedirects))
}

/// The error for a status from 400 on.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &str) -> StepError {
    let class = match status.as_u16() {
        401 | 407 => ErrorClass::Authentication,
        403 => ErrorClass::Permission,
        408 => ErrorClass::Timeout,
        425 | 429 => ErrorClass::Temporary,
        500.. => ErrorClass::ServerError,
        _ => ErrorClass::Validation,
    };
    let said: String = body.chars().take(SAID_MAX).collect();
    let error = StepError::new(class, format!("the server said {status}: {}", said.trim()));
    let seconds = headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    match seconds {
        Some(seconds) => error.after(Duration::from_secs(seconds)),
        None => error,
    }
}

/// Characters of a refusal that its error repeats.
const SAID_MAX: usize = 200;

fn failure(error: &ureq::Error) -> StepError {
    let class = match error {
        ureq::Error::Timeout(_) => ErrorClass::Timeout,
        ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            ErrorClass::Connection
        }
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::BodyExceedsLimit(_)
        | ureq::Error::TooManyRedirects => ErrorClass::Validation,
        _ => ErrorClass::Unknown,
    };
    StepError::new(class, format!("request: {error}"))
}
