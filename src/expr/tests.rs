use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::ast::{Arithmetic, Ast, Compare, Comparison, Path, Root, Segment};
use super::functions::Function;
use super::*;
use crate::time::Timestamp;

/// A run in the middle: one step succeeded, one failed, one was not reached.
struct Fixture(Json);

impl Scope for Fixture {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_000_000)
    }

    fn root(&self, name: &str) -> Option<Cow<'_, Json>> {
        self.0["roots"].get(name).map(Cow::Borrowed)
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        let step = self.0["steps"].get(id)?;
        let status = step["status"].as_str()?;
        Some(StepView { status, output: &step["output"], error: Cow::Borrowed(&step["error"]) })
    }
}

fn fixture() -> Fixture {
    Fixture(json!({
        "roots": {"input": {"n": 7, "text": "hello", "list": [1, "b"], "pct": "85%", "big": u64::MAX,
            "first-name": "Ada"}, "item": "x"},
        "steps": {
            "tests": {"status": "succeeded", "output": {"coverage": 91.5, "files": [{"name": "a.rs"}]}},
            "build": {"status": "failed", "output": null, "error": {"class": "timeout"}},
            "a-b": {"status": "pending", "output": null},
        },
    }))
}

fn value(text: &str) -> String {
    let expr = match Expr::parse(text) {
        Ok(expr) => expr,
        Err(error) => return format!("syntax: {error}"),
    };
    match expr.evaluate(&fixture()) {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn expressions_have_these_values() {
    let table = [
        ("1 + 2 * 3 - 4", "3"),
        ("(1 + 2) * 3 mod 5", "4"),
        ("7 / 2", "3.5"),
        ("8 / 2", "4"),
        ("-input.n", "-7"),
        ("9223372036854775807 + 1", "9.223372036854776e+18"),
        ("input.big == 18446744073709551615", "true"),
        ("input.big > 9223372036854775807", "true"),
        ("1 == 1.0 and [1, 2] == [1.0, 2]", "true"),
        ("tests.coverage > 80%", "true"),
        ("input.pct > 80%", "true"),
        ("input.pct > 85%", "false"),
        ("steps.tests.output.files[0].name", "\"a.rs\""),
        ("steps['a-b'].status == \"pending\"", "true"),
        ("steps.build.error.class", "\"timeout\""),
        ("input['first-name'] + '!'", "\"Ada!\""),
        ("input.nothing.at.all == null", "true"),
        ("input.list contains 'b' and 1 in input.list", "true"),
        ("'ell' in input.text and input contains 'n'", "true"),
        ("input.text matches '^h.+o$'", "true"),
        ("input.text startsWith 'he' and input.text endsWith 'lo'", "true"),
        ("not (true or false) or !false", "true"),
        ("true || 1 / 0 == 1", "true"),
        ("false && 1 / 0 == 1", "false"),
        ("exists(input.n) and not exists(last.n) and not exists(input.x)", "true"),
        ("default(input.x, 3) + default(last, 4)", "7"),
        ("len('äö') + len([1, 2]) + len(input.list)", "6"),
        ("upper('a') + lower('B') + string(3)", "\"Ab3\""),
        ("number(' 12 ') + number('50%')", "62"),
        ("min(3, 1, 2) + max([4, 9])", "10"),
        ("abs(-3) + round(2.5)", "6"),
        ("now()", "1"),
        ("time('1970-01-01T00:01:00Z') - now() == 59", "true"),
        ("1h30m + 250ms", "5400.25"),
        ("1_000 + 1e3", "2000"),
        ("'it\\'s' + \"\\n\"", "\"it's\\n\""),
        ("item", "\"x\""),
    ];
    for (text, expected) in table {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn mistakes_say_what_and_where() {
    let table = [
        ("", "syntax: at column 1: expected a value, found the end"),
        ("1 +", "syntax: at column 4: expected a value, found the end"),
        ("a = 1", "syntax: at column 3: `=` is no operator (write `==`)"),
        ("1 2", "syntax: at column 3: expected an operator or the end, found a number"),
        ("1 < 2 < 3", "syntax: at column 7: comparisons cannot be chained (join them with `and`)"),
        ("'open", "syntax: at column 1: this text has no end (add a ')"),
        ("lenn(1)", "syntax: at column 1: there is no function `lenn` (did you mean `len`?)"),
        ("len()", "syntax: at column 1: `len` takes 1 arguments, not 0"),
        (
            "steps.a",
            "syntax: at column 1: `steps` needs a step and what of it is read (as in \
          steps.build.output, steps.build.status or steps.build.error)",
        ),
        ("'a' matches '('", "syntax: at column 5: the pattern is not valid: unclosed group"),
        (
            "5x",
            "syntax: at column 1: `5x` is not a length of time; write it like 90s, 5m, 1h30m, \
          250ms or 2d",
        ),
        ("1 / 0", "error: at column 3: division by zero"),
        ("1 mod 0", "error: at column 3: division by zero"),
        (
            "1 < 'a'",
            "error: at column 3: `<` cannot take a number and a text (number(text) reads a \
          text as a number)",
        ),
        (
            "input.x > 1",
            "error: at column 9: `>` cannot take null and a number (default(path, \
          value) stands in for null)",
        ),
        ("last.x", "error: at column 1: `last` has no meaning here"),
        ("nobody.x", "error: at column 1: there is no step `nobody`"),
        (
            "not 1",
            "error: at column 1: expected true or false, found a number (compare it with \
          something, as in `x > 0` or `x != null`)",
        ),
        ("len(1)", "error: at column 1: `len` takes a text, a list or an object, not a number"),
    ];
    for (text, expected) in table {
        assert_eq!(value(text), expected, "{text}");
    }
}

struct Types;

impl TypeScope for Types {
    fn root(&self, name: &str) -> Option<Type> {
        (name == "input").then(|| {
            Type::from_json_schema(&json!({"type": "object", "properties":
            {"name": {"type": "string"}, "n": {"type": "integer"}}, "additionalProperties": false}))
        })
    }

    fn step(&self, id: &str) -> Option<Type> {
        (id == "tests").then_some(Type::Any)
    }

    fn suggest(&self, id: &str) -> Option<String> {
        crate::error::nearest(id, ["tests"]).map(str::to_string)
    }
}

#[test]
fn types_are_checked_before_anything_runs() {
    let table = [
        ("input.n > 3 and tests.x", "ok a boolean"),
        ("input.n + 1", "ok a number"),
        (
            "tets.coverage",
            "at column 1: there is no step `tets` to be seen (did you mean `tests`?)",
        ),
        ("input.nmae", "at column 1: there is no field `nmae` (did you mean `name`?)"),
        ("input.name > 3", "at column 12: `>` cannot take a text and a number"),
        ("input.name > 3%", "ok a boolean"),
        ("input.n == 'high'", "at column 9: `==` cannot take a number and a text"),
        ("input.n == null or tests.x == 'high'", "ok a boolean"),
        ("min(input.name)", "at column 1: `min` takes numbers, or one list of them, not a text"),
        ("not input.n", "at column 5: expected true or false, found a number"),
        ("input.n.x", "at column 1: a number has no field `x`"),
        ("exists(last) or default(item, true)", "ok a boolean"),
        ("last.x", "at column 1: `last` has no meaning here"),
    ];
    for (text, expected) in table {
        let found = match Expr::parse(text).unwrap().check(&Types) {
            Ok(found) => format!("ok {found}"),
            Err(errors) => errors[0].to_string(),
        };
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn hostile_nesting_is_refused_on_a_small_stack() {
    let deep = |open: &str, times: usize| open.repeat(times);
    let texts = [
        deep("(", 4_000),
        deep("[", 4_000),
        deep("!", 4_000),
        deep("-", 4_000),
        deep("not ", 1_000),
        deep("len(", 1_000),
        format!("{}1{}", deep("(", 64), deep(")", 64)),
        format!("{}true", deep("!", 64)),
        vec!["1"; 1_300].join("+"),
        vec!["a"; 2_000].join("."),
        vec!["true"; 500].join(" and "),
        "a".repeat(SOURCE_BYTES_MAX + 1),
    ];
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let thread = small.spawn(move || texts.iter().map(|text| value(text)).collect::<Vec<_>>());
    let values = thread.unwrap().join().unwrap();
    for refused in &values[..6] {
        assert!(refused.contains("more than 64 levels inside each other"), "{refused}");
    }
    assert_eq!(&values[6..9], ["1", "true", "1300"]);
    assert!(values[11].contains("the limit is 4096"));
}

#[test]
fn evaluation_is_bounded() {
    let list = vec!["'x'"; 500].join(",");
    let slow = format!("len([{list}]) > 0 and len([{list}]) > 0");
    assert!(value(&slow).starts_with("syntax") || value(&slow) == "true");
    let scope = Fixture(json!({"roots": {"input": vec![1; 100_000]}, "steps": {}}));
    let error = Expr::parse("input contains 2").unwrap().evaluate(&scope).unwrap_err();
    assert_eq!(error.message, "takes more than 10000 operations");
    let scope = Fixture(json!({"roots": {"input": "x".repeat(RESULT_BYTES_MAX)}, "steps": {}}));
    let error = Expr::parse("input + 'y'").unwrap().evaluate(&scope).unwrap_err();
    assert_eq!(error.message, "makes a text of more than 65536 bytes");
}

#[test]
fn the_structured_form_means_the_same_as_its_text() {
    let conditions = [
        (json!({"field": "tests.coverage", "operator": ">", "value": -80}), "tests.coverage > -80"),
        (json!({"field": "a.b", "operator": "in", "value": ["x", 1]}), "a.b in ['x', 1]"),
        (json!({"field": "a.b", "operator": "exists", "value": false}), "not exists(a.b)"),
        (json!({"field": "a.b", "operator": "matches", "value": "^x"}), "a.b matches '^x'"),
        (json!({"any": [{"all": []}, "x == 1"]}), "true or x == 1"),
        (json!({"all": ["a or b", {"not": "c"}]}), "(a or b) and not c"),
        (json!(true), "true"),
        (json!({"field": "a.b", "operator": ">", "value": "80%"}), "a.b > 80%"),
    ];
    for (document, text) in conditions {
        let condition: Condition = serde_json::from_value(document).unwrap();
        assert_eq!(condition.to_string(), text);
        assert_eq!(condition.compile().unwrap(), Expr::parse(text).unwrap(), "{text}");
        let back: Condition =
            serde_json::from_value(serde_json::to_value(&condition).unwrap()).unwrap();
        assert_eq!(back.compile(), condition.compile());
    }
    for (document, expected) in [
        (json!({"field": "a", "operator": "equls", "value": 1}), "did you mean `equals`?"),
        (json!({"feild": "a"}), "unknown field `feild`"),
        (json!({"field": "a", "value": 1}), "missing field `operator`"),
        (json!({"field": "a", "all": []}), "not several"),
    ] {
        let error = serde_json::from_value::<Condition>(document).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn path() -> impl Strategy<Value = Ast> {
    let root = prop_oneof![
        prop::sample::select(ROOTS.to_vec()).prop_map(Root::Name),
        prop::sample::select(vec!["tests", "build", "größe"]).prop_map(|id| Root::Step {
            id: id.into(),
            aspect: Aspect::Output,
            bare: true
        }),
        ("[a-z'\\\\ -]{1,4}", 0..3_usize).prop_map(|(id, aspect)| Root::Step {
            id: id.into(),
            aspect: [Aspect::Output, Aspect::Status, Aspect::Error][aspect],
            bare: false
        }),
    ];
    let segment = prop_oneof![
        "[a-zA-Z_é' \\\\\"\\]-]{0,5}".prop_map(Segment::Field),
        (0..100_usize).prop_map(Segment::Index),
    ];
    (root, prop::collection::vec(segment, 0..3))
        .prop_map(|(root, segments)| Ast::Path(Path { root, segments, span: Span::default() }))
}

fn tree() -> impl Strategy<Value = Ast> {
    let leaf = prop_oneof![
        (0..1_000_000_i64).prop_map(|n| Ast::Literal(n.into())),
        (0.0..1e6_f64).prop_map(|n| Ast::Literal(n.into())),
        "\\PC{0,6}".prop_map(|text| Ast::Literal(text.into())),
        prop::sample::select(vec![json!(true), json!(false), json!(null)]).prop_map(Ast::Literal),
        (0..1000_u32).prop_map(|n| Ast::Percent(f64::from(n) / 8.0)),
        (0..10_000_000_u32).prop_map(|n| Ast::Duration(f64::from(n) / 1000.0)),
        path(),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 2..4);
        let span = Span::default();
        prop_oneof![
            many.clone().prop_map(Ast::List),
            many.clone().prop_map(Ast::And),
            many.prop_map(Ast::Or),
            inner.clone().prop_map(move |a| Ast::Not(Box::new(a), span)),
            inner.clone().prop_map(move |a| Ast::Negate(Box::new(a), span)),
            (inner.clone(), inner.clone()).prop_map(move |(a, b)| Ast::Call {
                function: Function::Default,
                arguments: vec![a, b],
                span
            }),
            (
                inner.clone(),
                prop::collection::vec((any::<bool>(), inner.clone()), 1..3),
                any::<bool>()
            )
                .prop_map(move |(first, rest, product)| Ast::Arithmetic {
                    first: Box::new(first),
                    rest: rest
                        .into_iter()
                        .map(|(flip, item)| match (product, flip) {
                            (true, true) => (Arithmetic::Multiply, item),
                            (true, false) => (Arithmetic::Remainder, item),
                            (false, true) => (Arithmetic::Add, item),
                            (false, false) => (Arithmetic::Subtract, item),
                        })
                        .collect(),
                    span
                }),
            (inner.clone(), inner, 0..8_usize).prop_map(move |(left, right, operator)| {
                let operator = [
                    Compare::Equal,
                    Compare::NotEqual,
                    Compare::Less,
                    Compare::GreaterOrEqual,
                    Compare::In,
                    Compare::Contains,
                    Compare::StartsWith,
                    Compare::EndsWith,
                ][operator];
                let regex = None;
                Ast::Compare(Box::new(Comparison { left, operator, right, span, regex }))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn a_printed_tree_parses_to_itself_and_evaluates_without_a_panic(ast in tree()) {
        let expr = Expr::of(ast);
        let text = expr.to_string();
        if text.len() <= SOURCE_BYTES_MAX {
            let back = Expr::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(&back, &expr, "{}", text);
        }
        let _ = expr.evaluate(&fixture());
        let _ = expr.check(&Types);
    }
}

/// A linear congruential generator (Knuth's MMIX constants): repeatable and without a dependency.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[test]
fn a_hundred_thousand_random_inputs_never_panic() {
    const WORDS: [&str; 40] = [
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        "1",
        "0",
        "80%",
        "5m",
        "'a'",
        "\"",
        "'",
        "==",
        "<",
        ">=",
        "in",
        "contains",
        "matches",
        "tests.coverage",
        "steps.build.status",
        "input.n",
        "item",
        "len(",
        "exists(",
        "default(",
        "now()",
        "+",
        "-",
        "*",
        "/",
        "mod",
        ",",
        ".",
        "!",
        "\\",
        "é",
        "9223372036854775807",
        "1e308",
    ];
    let mut dice = Dice(42);
    let mut kinds = BTreeMap::<&str, u32>::new();
    for round in 0..100_000 {
        let mut text = String::new();
        for _ in 0..dice.roll(12) {
            if round % 3 == 0 {
                text.push(char::from_u32(dice.roll(0x500) as u32).unwrap_or('?'));
            } else {
                text.push_str(WORDS[dice.roll(WORDS.len())]);
                text.push_str([" ", ""][dice.roll(2)]);
            }
        }
        let found = match Expr::parse(&text) {
            Err(_) => "refused",
            Ok(expr) => {
                let printed = expr.to_string();
                assert_eq!(Expr::parse(&printed).as_ref(), Ok(&expr), "{text} printed {printed}");
                match expr.evaluate(&fixture()) {
                    Ok(_) => "value",
                    Err(_) => "error",
                }
            }
        };
        *kinds.entry(found).or_default() += 1;
    }
    assert!(kinds.values().all(|count| *count > 1_000), "the mix tests too little: {kinds:?}");
}

#[test]
fn lengths_below_a_millisecond_are_refused() {
    let error = Expr::parse("input.n > 500us").unwrap_err();
    assert!(error.to_string().contains("whole milliseconds"), "{error}");
    assert!(Expr::parse("input.n > 2000us").is_ok());
}
