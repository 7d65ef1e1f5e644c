//! Trying an operation of your own again, by the same rules as a step.

use std::future::Future;
use std::time::Duration;

use crate::error::StepError;
use crate::retry::{RetryDecision, RetryManager, Seed};
use crate::runtime::Runtime;

impl RetryManager {
    /// Runs `operation` with the number of the attempt, from 1, until it succeeds or the policy
    /// gives up; then its last error is the result. A wish to wait for a signal is handed back at
    /// once. Dropping the future drops the operation, which is not tried again.
    ///
    /// # Errors
    /// The last attempt's.
    ///
    /// ```
    /// use stepwell::retry::RetryManager;
    /// use stepwell::runtime::Host;
    /// use stepwell::{RetryConfig, StepError};
    ///
    /// let retry = RetryManager::new(RetryConfig::attempts(3).base_delay(std::time::Duration::ZERO));
    /// let host = Host::default();
    /// let work = retry.execute_with_retry(&host, |attempt| async move {
    ///     if attempt < 3 { Err(StepError::retryable("not yet")) } else { Ok(attempt) }
    /// });
    /// assert_eq!(futures::executor::block_on(work).unwrap(), 3);
    /// ```
    pub async fn execute_with_retry<T, F, Fut>(
        &self,
        runtime: &dyn Runtime,
        mut operation: F,
    ) -> Result<T, StepError>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, StepError>>,
    {
        let run = runtime.random();
        let mut previous = Duration::ZERO;
        let mut attempt = 1;
        loop {
            let error = match operation(attempt).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let class = self.class_of(&error);
            let mut failure = match error.into_failure() {
                Ok(failure) => failure,
                Err(wait) => {
                    return Err(StepError::wait_for_signal(wait.signal, wait.prompt, wait.timeout));
                }
            };
            failure.class = class;
            let seed = Seed::from_number(run.wrapping_add(u64::from(attempt)));
            match self.decide(attempt, previous, &failure, seed) {
                RetryDecision::GiveUp(_) => return Err(failure.into()),
                RetryDecision::RetryAfter(delay) => {
                    runtime.sleep(delay).await;
                    previous = delay;
                    attempt += 1;
                }
            }
        }
    }
}
