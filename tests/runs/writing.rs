//! Steps that write into the database of their engine: exactly once, whatever goes wrong.

use futures::future::{Either, join_all, select};
use serde_json::json;
use stepwell::runtime::Runtime as _;
use stepwell::storage::Statement;
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::{
    Engine, ErrorClass, ExecutionContext, Outcome, RetryConfig, Run, RunHandle, StartOptions,
    StepError, StepExecutor, executor_fn,
};

use super::*;

/// A database with tables of the host's: `log`, which takes a name twice, and `rows`, which does not.
pub(crate) trait Tables {
    fn open(&self) -> impl Storage + Clone;

    /// The names in a table, in order.
    fn names(&self, table: &str) -> Vec<String>;

    fn log(&self) -> Vec<String> {
        self.names("log")
    }
}

/// Logs its name, and does what its configuration says.
fn executor() -> impl StepExecutor {
    async fn body(ctx: ExecutionContext) -> Result<String, StepError> {
        ctx.write(Statement::new("INSERT INTO log (name) VALUES ($1)").bind(ctx.step()))?;
        for sql in ctx.config_as::<Vec<String>>("sql").unwrap_or_default() {
            ctx.write(Statement::new(sql))?;
        }
        match ctx.config_as::<String>("then").unwrap_or_default().as_str() {
            "fail" => Err(StepError::fatal("after it has written")),
            "panic" => panic!("after it has written"),
            "once more" if ctx.attempt() == 1 => Err(StepError::retryable("after it has written")),
            _ => Ok(ctx.step()),
        }
    }
    executor_fn(|ctx| async move { body(ctx).await })
}

pub(crate) fn engine(storage: impl Storage) -> Engine {
    Engine::builder().storage(storage).executor("write", executor()).build().unwrap()
}

pub(crate) fn step(id: &str, sql: &[&str], then: &str) -> Step {
    let step = Step::task(id, "write").config(json!({"sql": sql, "then": then}));
    step.transactional().retry(RetryConfig::attempts(2).base_delay(Duration::ZERO))
}

pub(crate) fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

pub(crate) fn run(storage: impl Storage, steps: impl IntoIterator<Item = Step>) -> Run {
    block_on(engine(storage).execute(&flow(steps), ())).unwrap()
}

pub(crate) fn insert(name: &str) -> Statement {
    Statement::new("INSERT INTO rows (name, number) VALUES ($1, 1)").bind(name)
}

fn three() -> Workflow {
    flow([step("a", &[], ""), step("b", &[], "").after("a"), step("c", &[], "")])
}

/// As often as there are calls: what a run comes to whose call with this number fails so, and how many
/// calls there were.
fn each_call<T: Tables>(
    faults: [Fault; 2],
    make: impl Fn() -> T,
    work: impl Fn(&T, u64, Fault) -> (Outcome, u64),
) {
    for fault in faults {
        for failing in 1.. {
            let tables = make();
            let (outcome, calls) = work(&tables, failing, fault);
            assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
            assert_eq!(tables.log(), ["a", "b", "c"], "{fault:?} call {failing}");
            if calls < failing {
                assert!(failing > 5, "{failing}");
                break;
            }
        }
    }
}

/// Each call of a storage fails once, and whoever waits tries again.
pub(crate) fn each_call_fails<T: Tables>(make: impl Fn() -> T) {
    each_call([Fault::Before, Fault::After], make, |tables, failing, fault| {
        let storage =
            Faulty::new(tables.open(), move |call| (call.number == failing).then_some(fault));
        let calls = storage.clone();
        let engine = engine(storage);
        let outcome = block_on(async {
            let mut handles: Vec<RunHandle> = Vec::new();
            loop {
                let run = engine.start_with(&three(), (), StartOptions::id("r")).await;
                let Ok(run) = run else { continue };
                handles.push(run.clone());
                if let Ok(outcome) = run.outcome().await {
                    return outcome;
                }
            }
        });
        (outcome, calls.calls())
    });
}

/// An engine is gone with a call that has no answer, and another one goes on.
pub(crate) fn dies_at_each_call<T: Tables>(make: impl Fn() -> T) {
    each_call([Fault::Hangs, Fault::HangsAfter], make, |tables, failing, fault| {
        let time = VirtualRuntime::new(failing);
        let first =
            Faulty::new(tables.open(), move |call| (call.number == failing).then_some(fault));
        let calls = first.clone();
        let second = Faulty::new(tables.open(), |_| None);
        let workflow = three();
        let work = async |storage| {
            let engine = Engine::builder().runtime(time.clone()).storage(storage);
            let engine = engine.executor("write", executor()).build().unwrap();
            let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
            run.outcome().await.unwrap()
        };
        let outcome = time.block_on(async {
            // Gone with all that it was at, before its patience is over.
            let died = time.sleep_until(time.now() + Duration::from_secs(1));
            match select(Box::pin(work(first)), Box::pin(died)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => work(second).await,
            }
        });
        (outcome.unwrap(), calls.calls())
    });
}

/// A hundred runs at once, some of which write a name that there is.
pub(crate) fn many_at_once(tables: &impl Tables) {
    let engine = engine(tables.open());
    let flow_of = |number: usize| {
        let name = if number % 5 == 4 { "taken".to_string() } else { format!("own {number}") };
        let sql = format!("INSERT INTO rows (name) VALUES ('{name}')");
        flow([step("a", &[&sql], ""), step("b", &[], "").after("a")])
    };
    block_on(engine.execute(&flow_of(4), ())).unwrap();
    let runs: Vec<Run> = block_on(join_all((0..100).map(|number| {
        let (engine, flow) = (engine.clone(), flow_of(number));
        async move { engine.execute(&flow, ()).await.unwrap() }
    })));
    let good = runs.iter().filter(|run| run.status() == RunStatus::Succeeded).count();
    assert_eq!(good, 80);
    assert_eq!(tables.log().len(), 2 * 81);
    assert_eq!(tables.names("rows").len(), 81);
}

/// Steps with statements that are not done, in one turn and so in one commit, with others that are good.
pub(crate) fn beside_good_ones(bad: &[(&str, &str, ErrorClass)]) -> Vec<Step> {
    let bad = bad.iter().map(|(id, sql, _)| step(id, &[sql], ""));
    let good = |id: &str| step(id, &[], "");
    [good("good_1")].into_iter().chain(bad).chain([good("good_2"), good("good_3")]).collect()
}

/// Each of them was refused, for good, and nothing else.
pub(crate) fn only_these_are_refused(
    run: &Run,
    tables: &impl Tables,
    bad: &[(&str, &str, ErrorClass)],
) {
    assert_eq!(tables.log(), ["good_1", "good_2", "good_3"]);
    assert!(tables.names("rows").is_empty());
    let history = run.error_history();
    for (id, sql, class) in bad {
        let failures: Vec<_> = history.iter().filter(|(step, _)| step == id).collect();
        assert_eq!(failures.len(), 1, "{id} is not tried again: {failures:?}");
        assert_eq!(failures[0].1.failure.class, *class, "{id}: {}", failures[0].1.failure);
        assert!(failures[0].1.failure.message.contains("refused"), "{sql}");
    }
}
