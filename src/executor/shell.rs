//! Running a program.

use std::collections::BTreeMap;
use std::process::Stdio;

use async_process::{Child, Command};
use async_trait::async_trait;
use futures::future::{Either, select};
use futures::io::{AsyncRead, AsyncReadExt};
use serde::{Deserialize, Serialize};

use super::{ExecutionContext, StepExecutor};
use crate::error::{ErrorClass, StepError};
use crate::value::{Json, Value};

/// Bytes of a program's output that are kept, of each stream; the rest is read and dropped.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Runs a program: a list of arguments, never a shell's text, so that no value of a run can become
/// a command.
///
/// Configuration: `command` (program and arguments), `directory`, `environment` (values to set),
/// `keep_environment` (names to hand on from this process; everything else is cleared but `PATH`),
/// and `args` as an input for further arguments. The output holds `status`, `stdout`, `stderr` and
/// `truncated`. A status other than 0 fails the step. A cancelled step's program is killed.
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
        if ctx.inputs().get("args").is_some() {
            command.args(ctx.input::<Vec<String>>("args")?);
        }
        command.env_clear();
        let kept = self.config.keep_environment.iter().map(String::as_str).chain(["PATH"]);
        for name in kept {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&self.config.environment);
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
        let finished = Box::pin(finish(&mut child));
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

async fn finish(child: &mut Child) -> Result<Outcome, StepError> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = futures::future::join(read(stdout), read(stderr)).await;
    let status = child.status().await?;
    let (stdout, stderr) = (stdout?, stderr?);
    Ok(Outcome {
        // Ended by a signal: as a shell reports it, without the signal's number.
        status: status.code().unwrap_or(128),
        truncated: stdout.1 || stderr.1,
        stdout: stdout.0,
        stderr: stderr.0,
    })
}

/// Reads to the end, and keeps the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<(String, bool)> {
    let (mut kept, mut truncated) = (Vec::new(), false);
    let mut buffer = [0; 8192];
    let Some(mut stream) = stream else { return Ok((String::new(), false)) };
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok((String::from_utf8_lossy(&kept).into_owned(), truncated));
        }
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
        truncated |= count > room;
    }
}
