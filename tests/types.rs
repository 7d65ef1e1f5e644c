//! Values whose type is known when a workflow is built, and that do not fit where they go.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value as Json, json};
use stepwell::Workflow;
use stepwell::workflow::Program;

/// What `build` says of a workflow with these variables and steps; empty if nothing.
fn said(variables: &Json, steps: &Json) -> String {
    let document = json!({
        "id": "w",
        "input_schema": {"type": "object", "properties": {
            "n": {"type": "number"}, "s": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "additionalProperties": false,
                "properties": {"size": {"type": "integer"}, "tags": {"type": "array"}}}}}},
        "variables": variables,
        "steps": steps,
    });
    let built = Workflow::from_json(&document.to_string());
    built.err().map_or(String::new(), |error| error.to_string())
}

/// What `build` says when a variable of each declared type is set by this formula.
fn set(declared: &str, formula: &str) -> String {
    let variables = json!({"v": {"type": declared}, "must": {"type": "integer", "required": true}});
    let said = said(&variables, &json!([{"id": "a", "task": "t", "set": {"v": formula}}]));
    match said.split_once("steps.a.set.v: ") {
        Some((_, wrong)) => wrong.to_string(),
        None => said,
    }
}

#[test]
fn a_variable_is_set_to_values_of_its_type() {
    let table = [
        ("string", "input.s", ""),
        ("string", "input.n", "expected a string, given a number"),
        ("integer", "'1'", "expected an integer, given a text"),
        ("number", "input.n > 1", "expected a number, given a boolean"),
        ("boolean", "len(input.s)", "expected a boolean, given a number"),
        ("array", "input", "expected an array, given an object"),
        ("object", "[1]", "expected an object, given a list"),
        ("date_time", "1", "expected a time as in RFC 3339, given a number"),
        ("duration", "true", "expected a length of time such as 1h30m, given a boolean"),
        ("duration", "90", ""),
        ("duration", "'90m'", ""),
        ("secret", "'abcd'", "expected a sealed secret, given a text"),
        ("any", "'abcd'", ""),
        ("integer", "null", ""),
        ("integer", "output.anything", ""),
    ];
    for (declared, formula, wrong) in table {
        assert_eq!(set(declared, formula), wrong, "{declared} = {formula}");
    }
    let schema = json!({"v": {"schema": {"type": "array", "items": {"type": "string"}}},
        "must": {"type": "integer", "required": true}});
    let steps = json!([{"id": "a", "task": "t", "set": {"v": "1", "must": "null"}}]);
    let both = said(&schema, &steps);
    assert!(both.contains("steps.a.set.v: expected"), "{both}");
    assert!(both.contains("steps.a.set.must: expected an integer, given null"), "{both}");
}

#[cfg(feature = "template")]
#[test]
fn a_template_is_a_text_and_one_hole_alone_what_stands_in_it() {
    let text = "expected an integer, given a text";
    let table = [
        ("n={{ input }} x", text),
        ("{{ input.n }} ", ""),
        ("{{ input.n }}{{ input.n }}", text),
        ("{% if input.n %}1{% endif %}", text),
        ("{{ input.s }}", text),
        ("{{ input['s'] }}", text),
        ("{{ input.list }}", "expected an integer, given a list"),
        ("{{ input.other }}", ""),
        ("{{ steps.b.status }}", text),
        ("{{ b.n }}", ""),
        ("{{ 'x' }}", text),
        ("{{ 12 }}", ""),
        ("{{ true }}", "expected an integer, given a boolean"),
        ("{{ null }}", ""),
        ("{{ input.s|upper|length }}", ""),
        ("{{ input.n|string }}", text),
        ("{{ input.s|split(',') }}", "expected an integer, given a list"),
        // What else there may be is not known: no filter is the last thing done.
        ("{{ input.s|default(1) }}", ""),
        ("{{ input.s|int('none') }}", ""),
        ("{{ 1 if input.s|upper }}", ""),
        ("{{ input.s|upper == 'X' }}", ""),
        ("{{ 1 + (input.s|length) }}", ""),
        ("{{ range(3) }}", ""),
        ("{{ vars.must }}", ""),
        ("  {{ vars.mist }}", "at column 6: there is no field `mist` (did you mean `must`?)"),
    ];
    for (formula, wrong) in table {
        let variables =
            json!({"v": {"type": "integer"}, "must": {"type": "integer", "required": true}});
        let steps =
            json!([{"id": "a", "task": "t", "set": {"v": formula}}, {"id": "b", "task": "t"}]);
        let said = said(&variables, &steps);
        let found = said.split_once("steps.a.set.v: ").map_or(&*said, |(_, wrong)| wrong);
        assert_eq!(found, wrong, "{formula}");
    }
}

#[test]
fn outputs_that_are_made_have_the_types_of_their_formulas() {
    let table = [
        ("b.x", "expected a boolean, given a number"),
        ("steps.b.output.x", "expected a boolean, given a number"),
        ("b.raw", "expected a boolean, given a number"),
        ("b.open", ""),
        ("b.far", "expected a boolean, given a text"),
        ("b.inner", ""),
        ("b.unknown", "at column 1: there is no field `unknown`"),
        ("b.x == 'one'", "at column 5: `==` cannot take a number and a text"),
        ("b.x > 1", ""),
    ];
    for (formula, wrong) in table {
        // `b` reads `c`, which comes later in the document.
        let steps = json!([
            {"id": "a", "task": "t", "set": {"v": formula}},
            {"id": "b", "task": "t", "output_schema": {"type": "object", "properties": {
                "n": {"type": "number"}}},
             "outputs": {"x": "len(input.s)", "raw": "output.n", "open": "output.m",
                         "far": "c.name", "inner": "c.none"}},
            {"id": "c", "task": "t", "outputs": {"name": "input.s + '!'", "none": "output"}},
        ]);
        let said = said(&json!({"v": {"type": "boolean"}}), &steps);
        let found = said.split_once("steps.a.set.v: ").map_or(&*said, |(_, wrong)| wrong);
        assert_eq!(found.lines().next().unwrap_or_default(), wrong, "{formula}");
    }
}

#[test]
fn what_an_output_is_made_of_is_seen_from_where_it_stands() {
    // Inside, `x` is a text; `a`, which stands outside, reads the number.
    let steps = json!([
        {"id": "x", "task": "t", "outputs": {"v": "1"}},
        {"id": "a", "task": "t", "outputs": {"v": "x.v"}},
        {"id": "p", "parallel": [
            {"id": "x", "task": "t", "outputs": {"v": "'text'"}},
            {"id": "z", "task": "t", "when": "a.v > 1 and x.v startsWith 't'"},
            {"id": "q", "task": "t", "when": "a.v startsWith 't'"},
        ]},
    ]);
    let said = said(&json!({}), &steps);
    assert!(!said.contains("p.parallel.z"), "{said}");
    assert!(
        said.contains("p.parallel.q.when: at column 5: `startsWith` cannot take a number"),
        "{said}"
    );
}

#[test]
fn outputs_that_are_made_of_each_other_are_a_cycle_and_long_chains_are_no_danger() {
    let steps = json!([
        {"id": "a", "task": "t", "outputs": {"v": "b.v"}},
        {"id": "b", "task": "t", "outputs": {"v": "a.v"}},
    ]);
    let cycle = said(&json!({}), &steps);
    assert!(cycle.contains("steps wait for each other"), "{cycle}");
    let chain: Vec<_> = (0..20_000)
        .map(|at| {
            json!({"id": format!("s{at}"), "task": "t",
                         "outputs": {"v": format!("s{}.v", at + 1)}})
        })
        .chain([json!({"id": "s20000", "task": "t", "outputs": {"v": "1"}})])
        .collect();
    assert_eq!(said(&json!({}), &json!(chain)), "");
}

#[test]
fn an_item_has_the_type_of_what_the_list_holds() {
    let table = [
        ("input.list", "item.size > 'x'", "at column 11: `>` cannot take a number and a text"),
        (
            "input.list",
            "item.sise > 1",
            "at column 1: there is no field `sise` (did you mean `size`?)",
        ),
        ("input.list", "item.size > 1", ""),
        ("input.list", "item.tags[0] == 1", ""),
        ("['a', 'b']", "item > 1", "at column 6: `>` cannot take a text and a number"),
        ("['a', 1]", "item > 1", ""),
        (
            "[['a'], ['b']]",
            "len(item) > 1 and item[0] > 1",
            "at column 27: `>` cannot take a text and a number",
        ),
        ("input.other", "item > 1", ""),
    ];
    for (list, when, wrong) in table {
        let steps = json!([{"id": "e", "foreach": list, "steps": [
            {"id": "p", "parallel": [{"id": "a", "task": "t", "when": when}]}]}]);
        let said = said(&json!({}), &steps);
        let place = "steps.e.steps.p.parallel.a.when: ";
        let found = said.split_once(place).map_or(&*said, |(_, wrong)| wrong);
        assert_eq!(found, wrong, "{list}: {when}");
    }
    // Of the inner one where there are two, and of the outer one behind it; what undoes a step sees it.
    let steps = json!([{"id": "e", "foreach": "[1]", "steps": [
        {"id": "i", "foreach": "['a']", "steps": [
            {"id": "a", "task": "t", "when": "item > 1",
             "compensate": {"id": "u", "task": "t", "when": "item > 2"}}]},
        {"id": "b", "task": "t", "when": "item > 1"}]}]);
    let said = said(&json!({}), &steps);
    let wrong = "cannot take a text and a number";
    assert_eq!(said.matches(wrong).count(), 2, "{said}");
    assert!(said.contains("i.steps.a.when") && said.contains("a.compensate.u.when"), "{said}");
}

#[test]
fn what_is_gone_through_is_a_list() {
    for kind in ["foreach", "dynamic"] {
        for (list, given) in [("input", "an object"), ("input.s", "a text"), ("null", "null")] {
            let mut step = json!({"id": "e", kind: list});
            if kind == "foreach" {
                step["steps"] = json!([{"id": "a", "task": "t", "inputs": {"x": "item.any"}}]);
            }
            let said = said(&json!({}), &json!([step]));
            let wrong = format!("steps.e.{kind}: expected a list, given {given}");
            assert!(said.ends_with(&wrong), "{said}");
        }
    }
}

#[test]
fn a_sub_workflow_gets_values_that_its_variables_may_have() {
    let child = json!({
        "id": "child",
        "variables": {
            "amount": {"type": "integer", "required": true},
            "note": {"type": "string"},
            "tags": {"schema": {"type": "array"}},
        },
        "steps": [{"id": "x", "task": "t"}],
    });
    let child = Workflow::from_json(&child.to_string()).unwrap();
    let link = |variables: Json| {
        let parent = json!({
            "id": "parent",
            "input_schema": {"type": "object", "properties": {"s": {"type": "string"}}},
            "steps": [
                {"id": "a", "task": "t", "outputs": {"n": "len(input.s)"}},
                {"id": "p", "parallel": [
                    {"id": "c", "workflow": "child", "variables": variables}]},
            ],
        });
        let parent = Workflow::from_json(&parent.to_string()).unwrap();
        let linked = Program::link(&parent, |_| Some(child.clone()), Vec::new);
        linked.err().map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(link(json!({"amount": "a.n", "note": "null", "tags": "input.list"})), "");
    let wrong = link(json!({"amount": "input.s", "note": "a.n", "tags": "a", "nte": "1"}));
    let expected = "the workflow is not valid
  parent: steps.p/c.variables.amount: the variable of `child`: expected an integer, given a text
  parent: steps.p/c.variables.note: the variable of `child`: expected a string, given a number
  parent: steps.p/c.workflow: `child` has no variable `nte` (did you mean `note`?)
  parent: steps.p/c.variables.tags: the variable of `child`: expected an array, given an object";
    assert_eq!(wrong, expected);
    let null = link(json!({"amount": "null"}));
    assert!(null.ends_with("expected an integer, given null"), "{null}");
}

#[test]
fn every_declared_type_says_what_it_expects_and_what_was_given() {
    let long = "a length of time such as 1h30m";
    let table = [
        (json!({"type": "string"}), "a string", json!(5)),
        (json!({"type": "integer"}), "an integer", json!(1.5)),
        (json!({"type": "number"}), "a number", json!("5")),
        (json!({"type": "boolean"}), "a boolean", json!("true")),
        (json!({"type": "array"}), "an array", json!({})),
        (json!({"type": "object"}), "an object", json!([])),
        (json!({"type": "date_time"}), "a time as in RFC 3339", json!("yesterday")),
        (json!({"type": "duration"}), long, json!("soon")),
        (json!({"type": "integer", "schema": {"maximum": 5}}), "an integer", json!("5")),
    ];
    for (declared, expected, given) in table {
        let (missing, wrong) = refusals(declared.clone(), given.clone());
        assert_eq!(missing, format!("vars.v: a value is required: {expected}"), "{declared}");
        assert_eq!(wrong, format!("vars.v: expected {expected}, given {given}"), "{declared}");
    }
    // What was given for a secret in the clear is not repeated.
    let (missing, wrong) = refusals(json!({"type": "secret"}), json!("abcd"));
    assert_eq!(missing, "vars.v: a value is required: a sealed secret");
    assert_eq!(wrong, "vars.v: expected a sealed secret, given something else");
}

#[test]
fn a_variable_with_a_schema_alone_says_what_that_expects() {
    let table = [
        (json!({}), "anything"),
        (json!({"schema": {"type": "string"}}), "a string"),
        (json!({"schema": {"type": "integer", "minimum": 1}}), "an integer"),
        (json!({"schema": {"type": "number"}}), "a number"),
        (json!({"schema": {"type": "boolean"}}), "a boolean"),
        (json!({"schema": {"type": "array"}}), "an array"),
        (json!({"schema": {"type": "object"}}), "an object"),
        (json!({"schema": {"type": "null"}}), "null"),
        (json!({"schema": {"type": ["string", "null"]}}), "a string or null"),
        (json!({"schema": {"enum": [1, "a"]}}), "a value that fits its schema"),
    ];
    for (declared, expected) in table {
        let (missing, _) = refusals(declared.clone(), json!(null));
        assert_eq!(missing, format!("vars.v: a value is required: {expected}"), "{declared}");
    }
}

/// What is said of a required variable that is not given, and that is given this.
fn refusals(mut declared: Json, given: Json) -> (String, String) {
    declared["required"] = json!(true);
    let document = json!({"id": "w", "variables": {"v": declared},
        "steps": [{"id": "a", "task": "t"}]});
    let workflow = Workflow::from_json(&document.to_string()).unwrap();
    let variables = &workflow.program().unit(0).variables;
    let said = |given: Option<Json>| {
        let given = given.map(|given| ("v".to_string(), given.into()));
        variables
            .complete(given.into_iter().collect())
            .err()
            .map_or(String::new(), |e| e.to_string())
    };
    (said(None), said(Some(given)))
}
