//! Running a program.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use async_process::{Child, Command};
use async_trait::async_trait;
use futures::future::{Either, join, select};
use futures::io::{AsyncRead, AsyncReadExt};
use serde::{Deserialize, Serialize};

use super::filled::{Filled, filled, without_secrets};
use super::{ExecutionContext, StepExecutor};
use crate::error::{ErrorClass, StepError};
use crate::value::{Json, Value};

/// Bytes of a program's output that are kept, of each stream; the rest is read and dropped.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Why a secret cannot be an argument, and what to do.
const SEEN: &str = "every user of the machine can read the arguments of a program; \
    name the input in `environment`, as {name}";

/// Runs a program: a list of arguments, never a shell's text, so that no value of a run can become
/// a command.
///
/// Configuration: `command` (program and arguments), `directory`, `environment` (names to texts),
/// and `keep_environment` (names to hand on from this process; everything else is cleared but `PATH`).
/// The input `args` is a list of further arguments. `{name}` in a text of `environment` is an input of
/// the step; a name without an input fails the step, and other braces stay as they are.
///
/// An input in `environment` may be a sealed secret: it is opened for the environment of this program
/// alone, and taken out of what it prints. An argument may not, as every user of the machine can
/// read those.
///
/// The output holds `status`, `stdout`, `stderr` and
/// `truncated`. A status other than 0 fails the step. A cancelled step's program is killed; programs
/// that it has started are its own affair, and what they write after its end is not read.
#[derive(Clone, Debug)]
pub struct Shell {
    config: Config,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    command: Vec<String>,
    #[serde(default)]
    directory: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    keep_environment: Vec<String>,
}

#[derive(Serialize)]
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
    truncated: bool,
}

impl Shell {
    /// The executor for a step with this configuration: a factory for
    /// [`ExecutorRegistry::register_factory`](super::ExecutorRegistry::register_factory).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_config(config: &Json) -> Result<Self, String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        if config.command.is_empty() {
            return Err("`command` is empty".into());
        }
        Ok(Self { config })
    }

    fn command(&self, ctx: &ExecutionContext) -> Result<Command, StepError> {
        let mut words = self.config.command.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command.args(words);
        if let Some(args) = ctx.inputs().get("args") {
            without_secrets("args", args, SEEN)?;
            command.args(ctx.input::<Vec<String>>("args")?);
        }
        command.env_clear();
        let kept = self.config.keep_environment.iter().map(String::as_str).chain(["PATH"]);
        for name in kept {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, template) in &self.config.environment {
            let place = format!("environment.{name}");
            let Filled { text, .. } = filled(ctx, &place, template)?;
            if text.contains('\0') {
                let message =
                    format!("`{place}`: no variable can hold a NUL character; encode the text");
                return Err(StepError::new(ErrorClass::Validation, message));
            }
            command.env(name, text);
        }
        if let Some(directory) = &self.config.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A dropped attempt, as after a time-out, takes its program with it.
        command.kill_on_drop(true);
        Ok(command)
    }
}

#[async_trait]
impl StepExecutor for Shell {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let mut child = self.command(&ctx)?.spawn()?;
        let finished = Box::pin(finish(&mut child, &ctx));
        let cancelled = Box::pin(ctx.cancelled());
        let ended = match select(finished, cancelled).await {
            Either::Left((outcome, _)) => Some(outcome?),
            Either::Right(_) => None,
        };
        let Some(outcome) = ended else {
            child.kill()?;
            return Err(StepError::new(ErrorClass::Cancelled, "the program was killed"));
        };
        if outcome.status == 0 {
            return Ok(Value::of(&outcome)?);
        }
        let last = outcome.stderr.trim_end().lines().last().unwrap_or_default();
        let message = format!("the program ended with status {}: {last}", outcome.status);
        Err(StepError::new(ErrorClass::Unknown, message))
    }
}

/// How long output is read after the program has ended: another that it left behind may hold its end.
const READ_ON: Duration = Duration::from_millis(200);

async fn finish(child: &mut Child, ctx: &ExecutionContext) -> Result<Outcome, StepError> {
    let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reads = Box::pin(join(stdout.read(out), stderr.read(err)));
        match select(reads, Box::pin(child.status())).await {
            Either::Left(((out, err), status)) => {
                out.and(err)?;
                status.await?
            }
            Either::Right((status, reads)) => {
                let ended = select(reads, Box::pin(ctx.sleep(READ_ON))).await;
                if let Either::Left(((out, err), _)) = ended {
                    out.and(err)?;
                }
                status?
            }
        }
    };
    let ((stdout, stdout_cut), (stderr, stderr_cut)) = (stdout.text(ctx), stderr.text(ctx));
    Ok(Outcome {
        // Ended by a signal: as a shell reports it, without the signal's number.
        status: status.code().unwrap_or(128),
        truncated: stdout_cut || stderr_cut,
        stdout,
        stderr,
    })
}

/// Bytes that are read beyond those that are kept: the longest secret, percent-encoded. A secret at
/// the cut is whole then, and found.
const BEYOND: usize = 3 * 65_536;

/// The beginning of a stream.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Kept {
    /// Reads to the end, and keeps the beginning; what was read stays when it is dropped.
    async fn read(&mut self, stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<()> {
        let mut buffer = [0; 8192];
        let Some(mut stream) = stream else { return Ok(()) };
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let room = OUTPUT_BYTES_MAX + BEYOND - self.bytes.len();
            self.bytes.extend_from_slice(&buffer[..count.min(room)]);
            self.truncated |= count > room;
        }
    }

    /// The text without secrets, and whether it was cut.
    fn text(&self, ctx: &ExecutionContext) -> (String, bool) {
        let mut text = ctx.scrubbed(String::from_utf8_lossy(&self.bytes).into_owned());
        // Half a secret at the end of what was read is within these bytes, whatever was taken out.
        let unsure = if self.truncated { BEYOND } else { 0 };
        let most = text.len().saturating_sub(unsure).min(OUTPUT_BYTES_MAX);
        let truncated = self.truncated || most < text.len();
        text.truncate(text.floor_char_boundary(most));
        (text, truncated)
    }
}
