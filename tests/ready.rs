//! Ready-made workflows: what they are, and what becomes of their runs, in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use stepwell::journal::{Reason, Vote};
use stepwell::ready::{CiCd, CodeReview, Environment, Etl};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Amount, Approval, Limits};
use stepwell::{
    Engine, ErrorClass, ErrorKind, ExecutionContext, Json, Outcome, RetryConfig, Run, RunHandle,
    RunStatus, StartOptions, Step, StepError, Workflow, executor_fn,
};

/// What an executor makes of a call.
type Answer = Result<Json, StepError>;

/// The names of all parts, to register an executor for each.
const PARTS: [&str; 23] = [
    "ai_review",
    "analysis",
    "announce",
    "build",
    "checkout",
    "deploy",
    "extract",
    "health_check",
    "lint",
    "load",
    "merge",
    "notify",
    "own",
    "quality",
    "report",
    "request_changes",
    "rollback",
    "security_scan",
    "split",
    "tests",
    "transform",
    "unload",
    "validate",
];

struct Play {
    run: Run,
    /// Every call: the part, and what it was for.
    calls: Vec<String>,
    /// The inputs of the last call of a part that tells people.
    told: Json,
}

impl Play {
    fn calls_of(&self, parts: &[&str]) -> Vec<&str> {
        let of = |call: &&str| parts.contains(&call.split(' ').next().unwrap());
        self.calls.iter().map(String::as_str).filter(of).collect()
    }

    fn failure(&self) -> String {
        match self.run.outcome().unwrap() {
            Outcome::Failed { step, failure } => format!("{step}: {failure}"),
            other => panic!("{other:?}"),
        }
    }
}

async fn nap(engine: &Engine, length: Duration) {
    engine.runtime().sleep_until(engine.runtime().now() + length).await;
}

/// What happens to a run from outside.
enum Meanwhile {
    Nothing,
    /// These votes, as soon as there is something to vote on.
    Votes(Vec<Vote>),
    CancelAfter(Duration),
}

async fn meddle(engine: &Engine, handle: &RunHandle, meanwhile: Meanwhile) {
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Votes(votes) => {
            while handle.approvals().is_empty() {
                assert!(!handle.status().is_end(), "{}", handle.snapshot().summary());
                nap(engine, Duration::from_secs(1)).await;
            }
            let open = handle.approvals().remove(0);
            for vote in votes {
                handle.approve(&open.id, vote).await.unwrap();
            }
        }
        Meanwhile::CancelAfter(length) => {
            nap(engine, length).await;
            handle.cancel(Reason::new("ann", "enough")).await.unwrap();
        }
    }
}

/// Runs a workflow to its end; every executor takes ten seconds, then gives this answer.
fn play(
    workflow: &Workflow,
    options: StartOptions,
    meanwhile: Meanwhile,
    answer: impl Fn(&str, &ExecutionContext) -> Answer + Send + Sync + 'static,
) -> Play {
    let time = VirtualRuntime::new(3);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::new(Mutex::new(Json::Null));
    let answer = Arc::new(answer);
    let mut builder = Engine::builder().runtime(time.clone());
    for part in PARTS {
        let (calls, told, answer) = (Arc::clone(&calls), Arc::clone(&told), Arc::clone(&answer));
        let executor = executor_fn(move |ctx| {
            let inputs = ctx.inputs();
            let about = ["environment", "source", "number"].map(|name| inputs.get(name));
            let about = about.into_iter().flatten().next().cloned().unwrap_or_default();
            calls.lock().unwrap().push(format!("{part} {about}"));
            if ["notify", "report", "announce"].contains(&part) {
                *told.lock().unwrap() = inputs.clone().into_json();
            }
            let answer = Arc::clone(&answer);
            async move {
                ctx.sleep(Duration::from_secs(10)).await;
                answer(part, &ctx)
            }
        });
        builder = builder.executor(part, executor);
    }
    let engine = builder.build().unwrap();
    let run = time.block_on(async {
        let handle = engine.start_with(workflow, json!("main"), options).await.unwrap();
        let (outcome, ()) = futures::join!(handle.outcome(), meddle(&engine, &handle, meanwhile));
        outcome.unwrap();
        handle.snapshot()
    });
    let told = told.lock().unwrap().clone();
    Play { run: run.unwrap(), calls: calls.lock().unwrap().clone(), told }
}

fn simply(
    workflow: &Workflow,
    answer: impl Fn(&str, &ExecutionContext) -> Answer + Send + Sync + 'static,
) -> Play {
    play(workflow, StartOptions::default(), Meanwhile::Nothing, answer)
}

fn boss() -> Approval {
    Approval::by(["ann", "bob", "cem"]).quorum(2)
}

fn shop() -> CiCd {
    CiCd::new("shop").gate("tests.coverage > 80%").environment("staging")
}

fn shop_with_approval() -> Workflow {
    shop().environment(Environment::new("production").approval(boss())).build().unwrap()
}

/// All is well, and coverage is 90 %.
fn well(part: &str, _: &ExecutionContext) -> Answer {
    Ok(match part {
        "tests" => json!({"coverage": 90}),
        "build" => json!("shop-1.2.tar"),
        "deploy" => json!({"revision": 7}),
        _ => Json::Null,
    })
}

fn everything() -> Vec<Workflow> {
    let limits = Limits { max_concurrent_steps: 3, ..Limits::default() };
    let own = |id: &str| Step::task(id, "own").config(json!({"with": "that"}));
    let ci_cd = CiCd::new("shop")
        .task(own("checkout"))
        .task(own("deploy").retry(RetryConfig::none()))
        .task(Step::sequence("build", [own("compile"), own("pack")]))
        .check(own("licences"))
        .check(own("docs").after("lint"))
        .integration_test(own("smoke"))
        .integration_test(own("browser tests"))
        .gate("tests.coverage > 80%")
        .gate("steps['browser tests'].output.failed == 0")
        .environment("staging")
        .environment(
            Environment::new("eu-west 1's")
                .approval(boss().prompt("Now?").show("tests.coverage"))
                .approval_timeout(Duration::from_secs(60))
                .task(own("health_check"))
                .without("rollback"),
        )
        .limits(limits.clone())
        .build();
    let etl = Etl::new("sales")
        .sources(["north", "south"])
        .tolerates(Amount::Percent(30))
        .extract_concurrency(2)
        .schema(json!({"type": "array"}))
        .gate("quality.score >= 95%")
        .gate("transform.rows > 0")
        .batch_size(10)
        .load_concurrency(0)
        .task(own("validate"))
        .task(own("report"))
        .limits(limits.clone())
        .build();
    let review = CodeReview::new("review")
        .check(own("licences"))
        .changes_when("findings.severe > 0 or findings.licences.unknown > 3")
        .approval(boss().schema(json!({"type": "object"})))
        .approval_timeout(Duration::from_secs(3600))
        .task(own("ai_review"))
        .limits(limits)
        .build();
    [ci_cd, etl, review].map(Result::unwrap).into()
}

#[test]
fn all_build_without_warnings_and_survive_being_written() {
    let mut all = everything();
    all.push(CiCd::new("shop").environment("production").build().unwrap());
    let bare = ["lint", "tests", "security_scan", "notify", "health_check", "rollback"];
    let bare = bare.into_iter().fold(CiCd::new("shop"), CiCd::without);
    all.push(bare.environment("production").build().unwrap());
    all.push(Etl::new("sales").build().unwrap());
    all.push(Etl::new("sales").without("unload").without("report").build().unwrap());
    all.push(CodeReview::new("review").build().unwrap());
    let bare = ["analysis", "tests", "ai_review", "announce"];
    all.push(
        bare.into_iter().fold(CodeReview::new("review"), CodeReview::without).build().unwrap(),
    );
    for workflow in all {
        assert!(workflow.warnings().is_empty(), "{}", workflow.warnings());
        let json = workflow.to_json().unwrap();
        assert_eq!(Workflow::from_json(&json).unwrap(), workflow, "{json}");
        #[cfg(feature = "yaml")]
        {
            let yaml = workflow.to_yaml().unwrap();
            assert_eq!(Workflow::from_yaml(&yaml).unwrap(), workflow, "{yaml}");
        }
    }
}

#[test]
fn everything_switched_on_runs_to_its_end() {
    let [ci_cd, etl, review] = <[Workflow; 3]>::try_from(everything()).unwrap();
    let yes = || {
        Meanwhile::Votes(vec![
            Vote::approve("ann").payload(json!({})),
            Vote::approve("cem").payload(json!({})),
        ])
    };
    let answer = |part: &str, ctx: &ExecutionContext| {
        Ok(match (part, ctx.step().as_str()) {
            (_, "browser tests") => json!({"failed": 0}),
            ("tests", _) => json!({"coverage": "91%"}),
            ("transform", _) => json!({"rows": 3}),
            ("quality", _) => json!({"score": 99}),
            ("split", _) => json!([1, 2, 3]),
            (_, "licences") => json!({"unknown": 1}),
            _ => json!([]),
        })
    };
    for (workflow, votes) in [(ci_cd, yes()), (etl, Meanwhile::Nothing), (review, yes())] {
        let run = play(&workflow, StartOptions::default(), votes, answer).run;
        assert_eq!(run.status(), RunStatus::Succeeded, "{}", run.summary());
    }
}

#[test]
fn a_definition_can_be_changed_before_it_is_built() {
    let mut definition = shop().into_definition();
    let changelog = Step::task("changelog", "own").after("build");
    definition.steps.push(changelog);
    definition.version = Some(2);
    let workflow = Workflow::from_definition(definition).unwrap();
    assert!(workflow.plan().index("changelog").is_some());
}

#[test]
fn a_workflow_without_environments_can_still_be_had() {
    let workflow =
        Workflow::from_definition(CiCd::new("ci").gate("tests.coverage > 80%").into_definition());
    let play = simply(&workflow.unwrap(), well);
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert_eq!(play.told["succeeded"], true);
}

#[test]
fn a_step_of_ones_own_takes_what_it_leaves_open_from_the_part() {
    let own = Step::task("deploy", "own").input("environment", "'elsewhere'");
    let workflow = shop().task(own).task(Step::workflow("lint", "house-rules")).build().unwrap();
    let step = |id: &str| {
        let steps = &workflow.definition().steps;
        steps.iter().find(|step| step.id.as_str() == id).cloned().unwrap()
    };
    let stepwell::StepKind::Sequence(parts) = step("staging").kind else { panic!() };
    assert_eq!(parts[0].inputs["environment"], "'elsewhere'");
    assert_eq!(parts[0].inputs["artifact"], "steps.build.output");
    assert_eq!(parts[0].retry.as_ref().unwrap().max_attempts, 2);
    assert!(parts[0].compensate.is_some());
    // A sub-workflow has neither inputs nor attempts.
    assert_eq!((step("lint").after, step("lint").retry), (vec!["checkout".into()], None));
}

#[test]
fn a_change_is_deployed_everywhere_once_people_agree() {
    let votes = vec![Vote::approve("ann"), Vote::reject("bob"), Vote::approve("cem")];
    let play = play(&shop_with_approval(), StartOptions::default(), Meanwhile::Votes(votes), well);
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert_eq!(*play.run.output().unwrap(), json!("shop-1.2.tar"));
    assert_eq!(
        play.calls_of(&["deploy", "health_check", "rollback"]),
        [
            "deploy \"staging\"",
            "health_check \"staging\"",
            "deploy \"production\"",
            "health_check \"production\"",
        ]
    );
    assert_eq!(play.told, json!({"succeeded": true, "error": null}));
}

#[test]
fn a_closed_gate_fails_the_run_before_anything_is_deployed() {
    let play = simply(&shop().build().unwrap(), |part, ctx| match part {
        "tests" => Ok(json!({"coverage": 79.5})),
        _ => well(part, ctx),
    });
    assert!(play.failure().starts_with("gate_closed: validation: "), "{}", play.failure());
    assert!(play.failure().contains("it takes tests.coverage > 80%"), "{}", play.failure());
    assert!(play.calls_of(&["deploy"]).is_empty());
    assert_eq!(play.told["succeeded"], false);
    assert_eq!(play.told["error"]["class"], "validation");
}

#[test]
fn a_gate_that_cannot_be_read_is_closed() {
    let play = simply(&shop().build().unwrap(), |_, _| Ok(Json::Null));
    assert!(play.failure().starts_with("gate_closed: "), "{}", play.failure());
    assert!(play.calls_of(&["deploy"]).is_empty());
}

#[test]
fn deployments_are_rolled_back_in_reverse_order() {
    let workflow = shop().environment("production").build().unwrap();
    let play = simply(&workflow, |part, ctx| {
        let environment = ctx.inputs()["environment"].as_str() == Some("production");
        match part {
            "health_check" if environment => Err(StepError::retryable("502")),
            "rollback" => {
                assert_eq!(ctx.inputs()["deployment"], json!({"revision": 7}));
                Ok(Json::Null)
            }
            _ => well(part, ctx),
        }
    });
    assert!(play.failure().contains("temporary: 502"), "{}", play.failure());
    assert_eq!(play.calls_of(&["rollback"]), ["rollback \"production\"", "rollback \"staging\""]);
    let checks = play.calls_of(&["health_check"]);
    assert_eq!(checks.iter().filter(|call| call.contains("production")).count(), 6);
    assert_eq!(play.calls.last().unwrap(), "notify null");
    assert_eq!(play.told["error"]["message"], "502");
}

#[test]
fn what_need_not_be_rolled_back_stays() {
    let workflow = CiCd::new("shop")
        .environment(Environment::new("staging").without("rollback"))
        .environment("production");
    let play = simply(&workflow.build().unwrap(), |part, ctx| {
        let production = ctx.inputs()["environment"] == "production";
        if part == "health_check" && production {
            Err(StepError::fatal("no"))
        } else {
            well(part, ctx)
        }
    });
    assert_eq!(play.calls_of(&["rollback"]), ["rollback \"production\""]);
}

#[test]
fn a_rejected_release_is_not_deployed_and_undone_elsewhere() {
    let votes = vec![Vote::reject("ann"), Vote::reject("bob").comment("not on a friday")];
    let play = play(&shop_with_approval(), StartOptions::default(), Meanwhile::Votes(votes), well);
    assert!(play.failure().contains("rejected by bob: not on a friday"), "{}", play.failure());
    assert_eq!(
        play.calls_of(&["deploy", "rollback"]),
        ["deploy \"staging\"", "rollback \"staging\""]
    );
    assert_eq!(play.told["error"]["class"], "rejected");
}

#[test]
fn an_approval_that_nobody_gives_fails_after_its_time() {
    let play = simply(&shop_with_approval(), well);
    assert!(play.failure().contains("timeout: waited for too long"), "{}", play.failure());
    assert_eq!(play.calls_of(&["rollback"]), ["rollback \"staging\""]);
}

#[test]
fn a_message_that_cannot_be_sent_undoes_nothing() {
    let play = simply(&shop().build().unwrap(), |part, ctx| match part {
        "notify" => Err(StepError::fatal("no such channel")),
        _ => well(part, ctx),
    });
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert!(play.calls_of(&["rollback"]).is_empty());
    let noted = play.run.step_output("notify").unwrap();
    assert_eq!(noted["notify_failed"]["error"]["message"], "no such channel");
}

#[test]
fn a_cancelled_run_is_rolled_back_and_people_are_told() {
    // Checkout, checks and build take half a minute, the first deployment twenty seconds.
    let cancel = Meanwhile::CancelAfter(Duration::from_secs(100));
    let play = play(&shop_with_approval(), StartOptions::default(), cancel, well);
    assert_eq!(play.run.status(), RunStatus::Cancelled);
    assert_eq!(play.calls_of(&["rollback", "notify"]), ["rollback \"staging\"", "notify null"]);
    assert_eq!(play.told, json!({"succeeded": false, "error": null}));
}

fn sales() -> Etl {
    Etl::new("sales").tolerates(Amount::Percent(34))
}

fn sources(names: &[&str]) -> StartOptions {
    StartOptions::default().variable("sources", json!(names))
}

/// Every source has two rows, those of `bad` ones cannot be read.
fn rows(part: &str, ctx: &ExecutionContext) -> Answer {
    let inputs = ctx.inputs();
    Ok(match part {
        "extract" => match inputs["source"].as_str() {
            Some(name) if name.starts_with("bad") => return Err(StepError::fatal("unreadable")),
            Some("odd") => json!("not a list"),
            _ => json!([1, 2]),
        },
        "transform" => {
            let sources = inputs["sources"].as_array().into_iter().flatten();
            sources.filter_map(Json::as_array).flatten().cloned().collect()
        }
        "split" => {
            let size = inputs["size"].as_u64().unwrap() as usize;
            inputs["data"].as_array().unwrap().chunks(size).map(Json::from).collect()
        }
        "quality" => json!({"score": inputs["data"].as_array().unwrap().len()}),
        "load" => json!({"loaded": inputs["batch"]}),
        _ => Json::Null,
    })
}

#[test]
fn one_bad_source_is_tolerated() {
    let workflow = sales().batch_size(3).build().unwrap();
    let play = play(&workflow, sources(&["a", "bad", "c"]), Meanwhile::Nothing, rows);
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert_eq!(play.calls_of(&["load"]), ["load 0", "load 1"]);
    assert_eq!(play.run.output().unwrap()[1], json!({"loaded": [2]}));
    assert_eq!(play.told["succeeded"], true);
    assert_eq!(play.told["loaded"][0], json!({"loaded": [1, 2, 1]}));
}

#[test]
fn too_many_bad_sources_fail_the_run() {
    let workflow = sales().build().unwrap();
    let play = play(&workflow, sources(&["a", "bad1", "bad2"]), Meanwhile::Nothing, rows);
    assert!(play.failure().contains("fatal: unreadable"), "{}", play.failure());
    assert!(play.calls_of(&["transform", "load"]).is_empty());
    assert_eq!(play.told["error"]["message"], "unreadable");
}

#[test]
fn data_of_another_shape_makes_a_bad_source() {
    let workflow = sales().schema(json!({"type": "array"})).build().unwrap();
    let names = sources(&["a", "odd", "c"]);
    let one = play(&workflow, names, Meanwhile::Nothing, rows);
    assert_eq!(one.run.status(), RunStatus::Succeeded, "{}", one.run.summary());
    let two = play(&workflow, sources(&["odd", "odd"]), Meanwhile::Nothing, rows);
    assert!(two.failure().contains("extract: validation: output: "), "{}", two.failure());
}

#[test]
fn sources_have_to_be_given() {
    let workflow = sales().build().unwrap();
    let engine = Engine::builder().build().unwrap();
    let refused = futures::executor::block_on(engine.start(&workflow, ())).unwrap_err();
    assert!(refused.to_string().contains("there is no executor"), "{refused}");
    assert!(workflow.definition().variables["sources"].required);
}

#[test]
fn what_was_loaded_is_unloaded_in_reverse_order() {
    let workflow = sales().batch_size(2).load_concurrency(1).sources(["a", "b", "c"]);
    let play = simply(&workflow.build().unwrap(), |part, ctx| match part {
        "load" if ctx.inputs()["number"] == 2 => Err(StepError::fatal("disk full")),
        "unload" => {
            assert_eq!(ctx.inputs()["loaded"]["loaded"], ctx.inputs()["batch"]);
            Ok(Json::Null)
        }
        _ => rows(part, ctx),
    });
    assert!(play.failure().contains("disk full"), "{}", play.failure());
    assert_eq!(play.calls_of(&["unload"]), ["unload 1", "unload 0"]);
    assert_eq!(play.told["succeeded"], false);
}

#[test]
fn poor_data_is_not_loaded() {
    let workflow = sales().gate("quality.score >= 3").sources(["a"]).build().unwrap();
    let play = simply(&workflow, rows);
    assert!(play.failure().contains("it takes quality.score >= 3"), "{}", play.failure());
    assert!(play.calls_of(&["split", "load"]).is_empty());
}

#[test]
fn quality_is_measured_only_if_a_gate_reads_it() {
    let workflow = sales().gate("len(steps.transform.output) > 0").sources(["a"]).build().unwrap();
    let play = simply(&workflow, rows);
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert!(play.calls_of(&["quality"]).is_empty());
}

#[test]
fn a_cancelled_run_still_reports() {
    let cancel = Meanwhile::CancelAfter(Duration::from_secs(15));
    let play = play(&sales().build().unwrap(), sources(&["a"]), cancel, rows);
    assert_eq!(play.run.status(), RunStatus::Cancelled);
    assert_eq!(play.told, json!({"succeeded": false, "loaded": null, "error": null}));
}

fn review() -> Workflow {
    CodeReview::new("review").approval(boss()).build().unwrap()
}

#[test]
fn a_change_that_people_approve_is_merged() {
    let yes = Meanwhile::Votes(vec![Vote::approve("ann"), Vote::approve("bob")]);
    let play = play(&review(), StartOptions::default(), yes, |part, ctx| {
        Ok(match part {
            "analysis" => json!({"severe": 0, "findings": ["long line"]}),
            "merge" => {
                assert_eq!(ctx.inputs()["change"], "main");
                ctx.inputs()["votes"][1]["by"].clone()
            }
            _ => Json::Null,
        })
    });
    assert_eq!(play.run.output().unwrap()["merge"], "bob");
    assert!(play.calls_of(&["request_changes"]).is_empty());
    assert_eq!(play.told["merged"], true);
    assert_eq!(play.told["findings"]["severe"], 0);
    assert_eq!(play.told["findings"]["analysis"]["findings"][0], "long line");
}

#[test]
fn severe_findings_ask_for_changes_and_bother_nobody() {
    let play = simply(&review(), |part, ctx| {
        Ok(match part {
            "tests" => json!({"severe": 1}),
            "ai_review" => json!({"severe": 2}),
            "request_changes" => ctx.inputs()["findings"]["severe"].clone(),
            _ => Json::Null,
        })
    });
    assert_eq!(play.run.output().unwrap()["request_changes"], 3);
    assert!(play.calls_of(&["merge"]).is_empty());
    assert_eq!((&play.told["merged"], &play.told["error"]), (&json!(false), &Json::Null));
}

#[test]
fn a_change_that_people_reject_is_not_merged() {
    let no = Meanwhile::Votes(vec![Vote::reject("ann"), Vote::reject("bob").comment("too big")]);
    let play = play(&review(), StartOptions::default(), no, |part, ctx| {
        Ok(match part {
            "request_changes" => ctx.inputs()["rejection"]["message"].clone(),
            _ => Json::Null,
        })
    });
    assert_eq!(play.run.status(), RunStatus::Succeeded, "{}", play.run.summary());
    assert_eq!(play.run.output().unwrap()["request_changes"], "rejected by bob: too big");
    assert!(play.calls_of(&["merge"]).is_empty());
    assert_eq!(play.told["merged"], false);
}

#[test]
fn a_review_that_nobody_takes_up_fails_and_is_announced() {
    let play = simply(&review(), |_, _| Ok(Json::Null));
    assert!(play.failure().starts_with("approval: timeout"), "{}", play.failure());
    assert!(play.calls_of(&["request_changes", "merge"]).is_empty());
    assert_eq!(play.told["error"]["class"], "timeout");
}

#[test]
fn the_model_need_not_answer_but_the_tests_must() {
    let yes = || Meanwhile::Votes(vec![Vote::approve("ann"), Vote::approve("bob")]);
    let silent = play(&review(), StartOptions::default(), yes(), |part, _| match part {
        "ai_review" => Err(StepError::new(ErrorClass::Connection, "no answer")),
        _ => Ok(Json::Null),
    });
    assert_eq!(silent.run.status(), RunStatus::Succeeded, "{}", silent.run.summary());
    assert_eq!(silent.calls_of(&["ai_review"]).len(), 4);
    assert_eq!((&silent.told["merged"], &silent.told["error"]), (&json!(true), &Json::Null));
    let broken = simply(&review(), |part, _| match part {
        "tests" => Err(StepError::fatal("no such image")),
        _ => Ok(Json::Null),
    });
    assert_eq!(broken.failure(), "tests: fatal: no such image");
    assert_eq!(broken.told["error"]["message"], "no such image");
}

#[test]
fn bad_settings_are_refused_all_at_once() {
    let refused = |workflow: stepwell::Result<Workflow>, expected: &[&str]| {
        let error = workflow.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidWorkflow);
        for text in expected {
            assert!(error.to_string().contains(text), "{text} is not in:\n{error}");
        }
    };
    refused(
        CiCd::new("").task(Step::task("lnit", "own")).without("build").without("test").build(),
        &[
            "task: there is no part `lnit` (did you mean `lint`?)",
            "without: `build` cannot be left out (these can: lint, ",
            "without: there is no part `test` (did you mean `tests`?)",
            "environments: there are no environments (add one with `environment`)",
            "id: ",
        ],
    );
    let staging = Environment::new("staging")
        .approval(Approval::by(["ann"]).quorum(2))
        .task(Step::task("notify", "own"))
        .without("deploy");
    refused(
        shop().gate("tests.coverage >").environment(staging).build(),
        &[
            "the id `staging` is already that of step",
            "environments.staging.task: there is no part `notify`",
            "environments.staging.without: `deploy` cannot be left out",
            "expected a value, found",
            "steps.staging.sequence.approval.wait.approval.quorum: it takes 2 of 1 approvers",
        ],
    );
    refused(shop().without("tests").build(), &["there is no step `tests`"]);
    refused(
        Etl::new("sales").batch_size(0).gate("qualty.score > 1").build(),
        &["batch_size: a batch of nothing loads nothing (1 or more)", "there is no step `qualty`"],
    );
    refused(Etl::new("sales").schema(json!(5)).build(), &["a JSON Schema is an object"]);
    refused(
        CodeReview::new("review")
            .approval(Approval::by(["ann"]).quorum(2))
            .without("merge")
            .build(),
        &[
            "steps.approval.wait.approval.quorum: it takes 2 of 1 approvers",
            "`merge` cannot be left",
        ],
    );
}

#[test]
fn there_may_be_many_environments() {
    let many =
        (0..80).fold(CiCd::new("shop"), |all, n| all.environment(format!("region {n}").as_str()));
    let workflow = many.build().unwrap();
    let play = simply(&workflow, |part, ctx| match part {
        "deploy" if ctx.inputs()["environment"] == "region 2" => Err(StepError::fatal("no")),
        _ => well(part, ctx),
    });
    assert_eq!(play.calls_of(&["rollback"]), ["rollback \"region 1\"", "rollback \"region 0\""]);
    assert_eq!(play.told["error"]["message"], "no");
}
