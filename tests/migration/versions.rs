//! Which definition a name means, and that a run keeps the one that it began with.

use serde_json::json;
use stepwell::storage::Memory;
use stepwell::testing::VirtualRuntime;
use stepwell::{Engine, ErrorKind, Step, Wait, Workflow, executor_fn};

use super::flow;

/// The workflow `review`, whose runs come to their version.
fn review(version: u32) -> Workflow {
    let say = Step::task("say", "process").config(json!({"value": version.to_string()}));
    let steps = [Step::wait("ask", Wait::signal("go")), say.after("ask")];
    Workflow::builder("review").version(version).steps(steps).build().unwrap()
}

fn parent(steps: impl IntoIterator<Item = (&'static str, &'static str)>) -> Workflow {
    flow(1, steps.into_iter().map(|(id, name)| Step::workflow(id, name)))
}

#[test]
fn a_name_means_the_version_that_it_ends_in_or_the_highest() {
    let time = VirtualRuntime::new(1);
    let builder = Engine::builder().runtime(time.clone());
    // In no order.
    let builder = [2, 10, 9].into_iter().fold(builder, |b, version| b.workflow(&review(version)));
    let engine = builder.build().unwrap();
    let names = ["review@2", "review", "review@9", "review@10"];
    let workflow = parent(["a", "b", "c", "d"].into_iter().zip(names));
    time.block_on(async {
        let run = engine.start(&workflow, ()).await.unwrap();
        for _ in names {
            run.signal("go", ()).await.unwrap();
        }
        let outcome = run.outcome().await.unwrap();
        assert_eq!(outcome.output().unwrap(), &json!({"a": 2, "b": 10, "c": 9, "d": 10}));
    })
    .unwrap();
    assert_eq!(engine.workflow("review").unwrap(), review(10));
    assert_eq!(engine.workflow("review@2").unwrap(), review(2));
}

#[test]
fn a_version_that_is_gone_is_named_with_those_that_are_there() {
    let time = VirtualRuntime::new(1);
    let builder = Engine::builder().runtime(time.clone());
    let engine = builder.workflow(&review(1)).workflow(&review(4)).build().unwrap();
    let start = |workflow| time.block_on(engine.start(&workflow, ())).unwrap().unwrap_err();
    let gone = start(parent([("a", "review@3")]));
    assert_eq!(gone.kind(), ErrorKind::InvalidWorkflow);
    let expected = "w: steps.a.workflow: the engine has no `review@3`; it has `review@1`, \
                    `review@4` (register the version that is meant with EngineBuilder::workflow)";
    assert!(gone.to_string().contains(expected), "{gone}");
    let unknown = start(parent([("a", "reviw@3")]));
    assert!(unknown.to_string().contains("the engine knows no workflow `reviw@3`"), "{unknown}");
    let gone = engine.workflow("review@3").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(gone.to_string().contains("it has `review@1`, `review@4`"), "{gone}");
}

#[test]
fn one_version_is_one_content() {
    let engine = Engine::builder().workflow(&review(1)).build().unwrap();
    // The same once more is the same.
    engine.define(&review(1)).unwrap();
    let step = Step::task("other", "process").config(json!({"value": "1"}));
    let other = Workflow::builder("review").version(1).step(step).build().unwrap();
    let refused = engine.define(&other).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    let text = refused.to_string();
    assert!(text.contains("knows `review@1` with another content"), "{text}");
    assert!(
        text.contains(&review(1).digest()[..12]) && text.contains(&other.digest()[..12]),
        "{text}"
    );
    let refused = futures::executor::block_on(engine.start(&other, ())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    let both = Engine::builder().workflow(&review(1)).workflow(&other).build().unwrap_err();
    assert_eq!(both.kind(), ErrorKind::AlreadyExists);
    // Without a version the last one counts.
    let plain =
        |id: &str| Workflow::builder("plain").step(Step::task(id, "process")).build().unwrap();
    engine.define(&plain("a")).unwrap();
    engine.define(&plain("b")).unwrap();
    assert_eq!(engine.workflow("plain").unwrap(), plain("b"));
}

#[test]
fn an_id_may_not_end_like_a_version() {
    let problems = |id: &str| {
        let built = Workflow::builder(id).step(Step::task("a", "t")).build();
        built.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(problems("w@3").contains("id: `w@3` ends like a version"), "{}", problems("w@3"));
    assert_eq!(problems("w@home"), "");
    let zero = Workflow::builder("w").version(0).step(Step::task("a", "t")).build().unwrap_err();
    assert!(zero.to_string().contains("versions count from 1"), "{zero}");
    let pinned = Workflow::builder("w").step(Step::workflow("a", "review@0")).build().unwrap_err();
    assert!(pinned.to_string().contains("steps.a.workflow: `0` is no version"), "{pinned}");
}

#[test]
fn a_workflow_may_run_an_older_version_of_itself() {
    let time = VirtualRuntime::new(1);
    let old = flow(1, [Step::task("one", "one")]);
    let new = flow(2, [Step::workflow("before", "w@1"), Step::task("more", "one").after("before")]);
    let one = executor_fn(|ctx| async move { Ok(json!([ctx.workflow_id(), ctx.step()])) });
    let builder =
        Engine::builder().runtime(time.clone()).storage(Memory::new()).executor("one", one);
    let engine = builder.workflow(&old).workflow(&new).build().unwrap();
    let run = time.block_on(engine.execute(&new, ())).unwrap().unwrap();
    assert_eq!(run.step_output("before").unwrap(), json!(["w", "before/one"]));
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_keys_nor_on_how_it_was_written() {
    let one = r#"{"id": "w", "version": 2, "steps": [{"id": "a", "task": "t", "config": {"x": 1, "y": [2]}}]}"#;
    let other = r#"{"steps": [{"config": {"y": [2], "x": 1}, "task": "t", "id": "a"}], "version": 2, "id": "w"}"#;
    let (one, other) = (Workflow::from_json(one).unwrap(), Workflow::from_json(other).unwrap());
    assert_eq!(one.digest(), other.digest());
    let step = Step::task("a", "t").config(json!({"y": [2], "x": 1}));
    assert_eq!(flow(2, [step.clone()]).digest(), one.digest());
    // It may not change between releases: storages and programs keep it.
    let expected = "90ead4088f8258928ec7f83b41779a9384b6782f39ad0a2d5914267f1f9c0c8c";
    assert_eq!(one.digest(), expected);
    assert_ne!(flow(3, [step]).digest(), one.digest(), "the version is a part of it");
}

#[cfg(feature = "sqlite")]
#[test]
fn a_run_keeps_what_it_began_with_over_a_restart() {
    use stepwell::storage::{Sqlite, SqliteOptions, Synchronous};
    use stepwell::testing::Faulty;

    let path = std::env::temp_dir().join(format!("stepwell-versions-{}.db", std::process::id()));
    let open = || -> Faulty<Sqlite> {
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        Faulty::new(options.open(&path).unwrap(), |_| None)
    };
    let time = VirtualRuntime::new(1);
    let engine = |versions: &[u32]| {
        let builder = Engine::builder().runtime(time.clone()).storage(open());
        let builder = versions.iter().fold(builder, |b, version| b.workflow(&review(*version)));
        builder.build().unwrap()
    };
    let workflow = parent([("newest", "review"), ("pinned", "review@1")]);
    time.block_on(async {
        let first = engine(&[1, 2]);
        let run = first.start(&workflow, ()).await.unwrap();
        super::drive(&first, &run, super::SECOND).await;
        let id = run.id().clone();
        drop((run, first));
        // Neither of the two is there any more, and there is a newer one.
        let second = engine(&[3]);
        let run = second.run(&id).await.unwrap();
        run.signal("go", ()).await.unwrap();
        run.signal("go", ()).await.unwrap();
        let outcome = run.outcome().await.unwrap();
        assert_eq!(outcome.output().unwrap(), &json!({"newest": 2, "pinned": 1}));
        let gone = second.start(&workflow, ()).await.unwrap_err();
        assert!(gone.to_string().contains("no `review@1`; it has `review@3`"), "{gone}");
    })
    .unwrap();
    let end = |end: &str| format!("{}{end}", path.display());
    let _ = ["", "-wal", "-shm", "-alive"].map(|name| std::fs::remove_file(end(name)));
}
