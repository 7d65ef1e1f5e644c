//! Executors of your own: a type with configuration and hooks, a factory, closures, typed closures.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepwell::executor::LogLevel;
use stepwell::{
    Engine, ErrorClass, ExecutionContext, Json, Step, StepError, StepExecutor, Value, Workflow,
    executor_fn, typed_fn,
};

/// Converts an amount at the rate that the step's configuration names.
struct Convert {
    rate: f64,
}

impl Convert {
    fn from_config(config: &Json) -> Result<Self, String> {
        match config["rate"].as_f64() {
            Some(rate) if rate > 0.0 => Ok(Self { rate }),
            _ => Err("`rate` must be a number above 0".into()),
        }
    }
}

#[async_trait]
impl StepExecutor for Convert {
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let amount: f64 = ctx.input("amount")?;
        if amount < 0.0 {
            return Err(StepError::new(ErrorClass::Validation, "the amount is negative"));
        }
        Ok((amount * self.rate).into())
    }

    async fn pre_execute(&self, ctx: &ExecutionContext) -> Result<(), StepError> {
        ctx.log(LogLevel::Info, format!("converting at {}", self.rate));
        Ok(())
    }
}

#[derive(Deserialize)]
struct Totals {
    net: f64,
    tax: f64,
}

#[derive(Serialize)]
struct Bill {
    total: f64,
}

fn main() -> stepwell::Result<()> {
    let engine = Engine::builder()
        .executor_factory("convert", Convert::from_config)
        .executor(
            "tax",
            executor_fn(|ctx| async move {
                let net: f64 = ctx.input("net")?;
                Ok(net * 0.2)
            }),
        )
        .executor(
            "bill",
            typed_fn(|totals: Totals| async move { Ok(Bill { total: totals.net + totals.tax }) }),
        )
        .build()?;
    let workflow = Workflow::builder("billing")
        .step(
            Step::task("net", "convert")
                .config(json!({"rate": 1.1}))
                .input("amount", "input.amount"),
        )
        .step(Step::task("tax", "tax").input("net", "steps.net.output"))
        .step(
            Step::task("bill", "bill")
                .input("net", "steps.net.output")
                .input("tax", "steps.tax.output"),
        )
        .build()?;

    let run = futures::executor::block_on(engine.execute(&workflow, json!({"amount": 100})))?;
    println!("{}\noutput {}", run.summary(), run.output().unwrap_or_default());

    let wrong = Workflow::builder("wrong")
        .step(Step::task("net", "convert").config(json!({"rate": 0})))
        .step(Step::task("oops", "convrt"))
        .build()?;
    if let Err(error) = futures::executor::block_on(engine.start(&wrong, ())) {
        println!("\nrefused before anything runs: {error}");
    }
    Ok(())
}
