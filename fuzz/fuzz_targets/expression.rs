//! Any text: refused, or printed back to the same tree and evaluated, without a panic.
#![no_main]

use std::borrow::Cow;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use stepwell::expr::{Expr, Scope, StepView};
use stepwell::{Json, Timestamp};

static INPUT: LazyLock<Json> =
    LazyLock::new(|| json!({"n": 7, "text": "hello", "list": [1, "b", null], "pct": "85%"}));

struct Fixture;

impl Scope for Fixture {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }

    fn root(&self, name: &str) -> Option<Cow<'_, Json>> {
        (name == "input").then(|| Cow::Borrowed(&*INPUT))
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        let error = Cow::Owned(Json::Null);
        (id != "missing").then(|| StepView { status: "succeeded", output: &INPUT, error })
    }
}

fuzz_target!(|text: &str| {
    let Ok(expr) = Expr::parse(text) else { return };
    let printed = expr.to_string();
    assert_eq!(Expr::parse(&printed).as_ref(), Ok(&expr), "{text:?} printed {printed:?}");
    let _ = expr.evaluate(&Fixture);
});
