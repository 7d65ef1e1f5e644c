use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::expr::{Aspect, StepView};
use crate::time::Timestamp;

/// A run in the middle.
struct Fixture(Json);

impl Scope for Fixture {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
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
        "roots": {"input": {
            "name": "Ada <a@b>", "n": 7, "half": 0.5, "big": u64::MAX, "none": null, "yes": true,
            "first-name": "Ada", "files": ["a", "b"], "zero": 0, "empty": [],
            "people": [{"name": "A", "age": 3}, {"name": "B", "age": 5}],
            "key": {"$sealed": "v1.abc"}, "log": {"$blob": "xyz", "bytes": 7},
            "deep": {"key": {"$sealed": "v1.abc"}},
            "long": "x".repeat(100_000),
        }, "vars": {"items": {"b": 1, "a": 2}}},
        "steps": {
            "tests": {"status": "succeeded", "output": {"coverage": 91.5, "files": [{"name": "a.rs"}]}},
            "build": {"status": "failed", "output": null, "error": {"class": "timeout"}},
            "a-b": {"status": "pending", "output": 1},
            "range": {"status": "pending", "output": 2},
        },
    }))
}

fn value(text: &str) -> String {
    match Template::parse(text) {
        Ok(template) => match template.evaluate(&fixture()) {
            Ok(value) => value.to_string(),
            Err(error) => format!("error: {error}"),
        },
        Err(error) => format!("syntax: {error}"),
    }
}

fn table(rows: &[(&str, &str)]) {
    let wrong = rows.iter().filter(|(text, expected)| value(text) != *expected);
    let wrong: Vec<String> = wrong.map(|(text, _)| format!("{text}: {}", value(text))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_hole_alone_keeps_its_type() {
    table(&[
        ("{{ input.n }}", "7"),
        (" \n{{- input.n -}}\t ", "7"),
        ("{{ input.half }}", "0.5"),
        ("{{ input.big }}", "18446744073709551615"),
        ("{{ input.none }}", "null"),
        ("{{ null }}", "null"),
        ("{{ input.yes }}", "true"),
        ("{{ input.files }}", r#"["a","b"]"#),
        ("{{ vars.items }}", r#"{"a":2,"b":1}"#),
        ("{{ 4 / 2 }}", "2.0"),
        ("{{ input.n + 1 }}", "8"),
        ("{{ input.n * 2 + 1 }}", "15"),
        ("{{ 2 * (input.half|round) }}", "0.0"),
        ("{{ -input.n * -2 }}", "14"),
        ("{{ 2 + 3 * 4 ** 2 - 10 // 3 % 2 }}", "49"),
        ("{{ input.half + input.n }}", "7.5"),
        ("{{ [input.n, 'x', {'a': input.files}] }}", r#"[7,"x",{"a":["a","b"]}]"#),
        ("{{ input.n > 3 and not input.zero }}", "true"),
        ("{{ input.files[1:] }}", r#"["b"]"#),
        ("{{ input.people|map(attribute='age')|sum }}", "8"),
        ("{{ input.missing|default('x') }}", r#""x""#),
        ("{{ input.missing is defined }}", "false"),
        ("{{ range(3) }}", "[0,1,2]"),
        ("{# why #}{{ input.n }}", "7"),
        ("{% raw %}{% endraw %}{{ input.n }}", "\"7\""),
        ("{{ input.n }}{{ input.n }}", "\"77\""),
        ("x{{ input.n }}", "\"x7\""),
        ("{% if true %}{{ input.n }}{% endif %}", "\"7\""),
        ("{{ 'x' if input.zero }}", "error: at column 1: reads what is not there"),
    ]);
}

#[test]
fn everything_else_is_a_text() {
    table(&[
        ("", "\"\""),
        ("plain {", "\"plain {\""),
        ("Hello {{ input.name }}!\n", r#""Hello Ada <a@b>!\n""#),
        (
            "{{ input.half }} {{ input.n }} {{ input.yes }} {{ input.none }}.",
            r#""0.5 7 true null.""#,
        ),
        ("{{ input.files }} {{ vars.items }}", r#""[\"a\",\"b\"] {\"a\":2,\"b\":1}""#),
        ("{{ 'x' if input.zero }}.", "\".\""),
        (
            "{% for f in input.files %}{{ loop.index }}{{ f }}{% if not loop.last %}, {% endif %}{% endfor %}",
            "\"1a, 2b\"",
        ),
        ("{% for p in input.people if p.age > 3 %}{{ p.name }}{% else %}none{% endfor %}", "\"B\""),
        ("{% for item in input.empty %}{{ item }}{% else %}none{% endfor %}", "\"none\""),
        ("{% for k, v in vars.items|items %}{{ k }}={{ v }};{% endfor %}", "\"a=2;b=1;\""),
        ("{% if input.n > 7 %}a{% elif input.n == 7 %}b{% else %}c{% endif %}", "\"b\""),
        ("{% raw %}{{ x }}{% endraw %}", "\"{{ x }}\""),
        ("a {#- b -#} c", "\"ac\""),
        (
            "{{ input.files|join(', ') }} {{ input.name|upper|replace('A', 'x') }}",
            r#""a, b xDx <x@B>""#,
        ),
        ("{{ input.people|selectattr('age', 'gt', 3)|map(attribute='name')|join }}.", "\"B.\""),
        ("{{ vars.items|tojson(indent=1) }}.", r#""{\n \"a\": 2,\n \"b\": 1\n}.""#),
        ("{{ 'a\nb'|indent(2) }}.", r#""a\n  b.""#),
        ("{{ 'a,b'|split(',')|reverse|list }} {{ ' x '|trim }}", r#""[\"b\",\"a\"] x""#),
        ("{{ input['first-name'] }} {{ steps['a-b'].output }}", "\"Ada 1\""),
        ("{{ 10.0 }} {{ 1e300 }} {{ 7 / 2 }}", "\"10.0 1e+300 3.5\""),
    ]);
}

#[test]
fn steps_are_read_as_in_expressions() {
    table(&[
        ("{{ tests.coverage }}", "91.5"),
        ("{{ steps.tests.output.coverage }}", "91.5"),
        ("{{ tests }}", r#"{"coverage":91.5,"files":[{"name":"a.rs"}]}"#),
        ("{{ tests.files[0].name }}", "\"a.rs\""),
        ("{{ tests.files.0.name }} {{ tests.coverage }}", "\"a.rs 91.5\""),
        ("{{ steps.build.status }} {{ steps.build.error.class }}", "\"failed timeout\""),
        ("{{ steps.build.output }}", "null"),
        ("{{ steps.range.output }}", "2"),
        ("{{ build }}", "null"),
        ("{{ steps.nope.status }}", "error: at column 9: there is no step `nope`"),
        ("{{ steps['no-pe'].output }}", "error: at column 9: there is no step `no-pe`"),
        ("{{ nope.x }}", "error: at column 4: there is no step `nope`"),
        ("{{ inptu.x }}", "error: at column 4: there is no step `inptu` (did you mean `input`?)"),
        ("{{ item.x }}", "error: at column 4: `item` has no meaning here"),
        ("{{ tests.nope }}", "error: at column 4: `tests.nope` is undefined"),
        ("{{ build.x }}", "error: at column 4: `build.x` is undefined"),
        ("{{ nope|default(3) }}", "3"),
        ("{% if nope.x %}{% endif %}", "error: at column 7: there is no step `nope`"),
        ("{{ item > 3 }}", "error: at column 1: `item` has no meaning here"),
        ("{{ item - 3 }}", "error: at column 4: `item` has no meaning here"),
    ]);
}

#[test]
fn what_is_read_is_known_beforehand() {
    let text = "{% for item in tests.files %}{{ item }}{{ steps.build.status }}{% endfor %}
        {{ input['a'].b|default(vars.x) }} {{ steps['a-b'].error }} {{ tests.files }} {{ range(2) }}";
    let template = Template::parse(text).unwrap();
    let mentions: Vec<(String, Aspect)> =
        template.mentions().into_iter().map(|m| (m.step.to_string(), m.aspect)).collect();
    let expected = [
        ("tests", Aspect::Output),
        ("build", Aspect::Status),
        ("a-b", Aspect::Error),
        ("tests", Aspect::Output),
    ];
    assert_eq!(mentions, expected.map(|(step, aspect)| (step.to_owned(), aspect)));
    let spans = template.mentions();
    assert_eq!(
        &text[spans[2].span.start as usize..spans[2].span.end as usize],
        "steps['a-b'].error"
    );
    assert_eq!(template.roots(), ["input", "vars"]);
    let is_one = crate::workflow::Formula::is_template;
    assert!(is_one(text) && !is_one("{ {"));
}

#[test]
fn secrets_and_large_values_are_handed_on_or_refused() {
    let secret = "`input.key` is a secret, which cannot be put into a text; \
        map it as an input of its own, alone";
    table(&[
        ("{{ input.key }}", r#"{"$sealed":"v1.abc"}"#),
        ("{{ input.log }}", r#"{"$blob":"xyz","bytes":7}"#),
        ("{{ input.deep }}", r#"{"key":{"$sealed":"v1.abc"}}"#),
        ("{{ [input.key] }}", r#"[{"$sealed":"v1.abc"}]"#),
        ("{{ input.key is defined }}", "true"),
        ("x{{ input.key }}", &format!("error: at column 5: {secret}")),
        ("{{ input.key|string }}", &format!("error: at column 14: {secret}")),
        ("{{ input.key|tojson }}", &format!("error: at column 14: {secret}")),
        ("{{ [input.key]|join }}", &format!("error: at column 16: {secret}")),
        ("{{ input.key in 'abc' }}", &format!("error: at column 1: {secret}")),
        ("{{ input.key|upper }}", &format!("error: at column 1: {secret}")),
        ("{{ input.key['$sealed'] }}", &format!("error: at column 9: {secret}")),
        ("{{ input.key.x|default(1) }}", &format!("error: at column 1: {secret}")),
        ("\n.{{ input.key }}", &format!("error: at column 6: {secret}, in line 2")),
    ]);
    let refused = value("\n.{{ [[input.deep]] }}");
    assert!(refused.contains("`input.deep.key` is a secret"), "{refused}");
    assert!(refused.ends_with(", in line 2"), "{refused}");
    let scope = Fixture(json!({"roots": {"input": {"list": [{"key": {"$sealed": "x"}}]}}}));
    let refused = Template::parse(".{{ input.list }}").unwrap().evaluate(&scope).unwrap_err();
    assert!(refused.message.starts_with("`input.list[].key` is a secret"), "{refused}");
    let refused = value("a{{ input.deep }}");
    assert!(refused.contains("`input.deep.key` is a secret"), "{refused}");
    let refused = value("a{{ input.log }}");
    assert!(refused.contains("`input.log` is kept outside the journal"), "{refused}");
}

#[test]
fn what_is_wrong_is_said() {
    table(&[
        ("{{", "syntax: at column 1: `{{` is not closed"),
        ("{% if x", "syntax: at column 1: `{%` is not closed"),
        (
            "a\n b\n{{ a|uper }}",
            "syntax: at column 11: there is no filter `uper`, in line 3 (did you mean `upper`?)",
        ),
        ("a\n{% for x y %}", "syntax: at column 12: unexpected identifier, expected in, in line 2"),
        ("{{ (a }}", "syntax: at column 7: `}` closes nothing that is open"),
        ("{{ ] }}", "syntax: at column 4: `]` closes nothing that is open"),
        ("{{ (", "syntax: at column 4: `(` is not closed"),
        ("{{ 'a }}", "syntax: at column 4: `'` begins a text that does not end"),
        ("{{ a ? b }}", "syntax: at column 6: `?` is no sign here"),
        ("{{ é }}", "syntax: at column 4: `é` is no sign here"),
        ("{{ 0x1F }}", "syntax: at column 4: `0x` is no number"),
        ("{{ 1. }}", "syntax: at column 4: `1.` is no number"),
        ("{{ }}", "syntax: at column 4: unexpected end of variable block"),
        (
            "{% if input.n %}",
            "syntax: at column 15: unexpected end of input, expected end of block",
        ),
        ("{# x", "syntax: at column 1: `{#` is not closed by `#}`"),
        ("{% raw %}", "syntax: at column 1: `{% raw %}` is not closed by `{% endraw %}`"),
        (
            "{% set a = 1 %}",
            "syntax: at column 1: `set` is not known (a template has holes {{ }}, `if`, `for`, `raw` and comments {# #})",
        ),
        (
            "{{ a ~ b }}",
            "syntax: at column 6: `~` does not join texts here (put holes side by side, as in {{ a }}{{ b }})",
        ),
        (
            "{{ a|lenght }}",
            "syntax: at column 6: there is no filter `lenght` (did you mean `length`?)",
        ),
        ("{{ a is odder }}", "syntax: at column 9: there is no test `odder`"),
        (
            "{{ now() }}",
            "syntax: at column 4: there is no function `now` (filters stand behind a `|`, as in `input.user|items`)",
        ),
        (
            "{{ input.x.items() }}",
            "syntax: at column 4: there is no function `items` (filters stand behind a `|`, as in `input.user|items`)",
        ),
        (
            "{{ steps.a }}",
            "syntax: at column 4: `steps` needs a step and what of it is read (as in steps.build.output, steps['a-b'].status or steps.build.error)",
        ),
        (
            "{{ 2 * a|string }}",
            "syntax: at column 9: `|` behind `*` needs brackets (as in `a * (b|round)`)",
        ),
        (
            "{{ input.files[0:2:-1] }}",
            "syntax: at column 15: a part of a list has a beginning and an end, no step",
        ),
        (
            "{% for a in b recursive %}{% endfor %}",
            "syntax: at column 15: loops cannot be recursive",
        ),
        ("a\nb {{ input.n.x }}", "error: at column 13: `input.n.x` is undefined, in line 2"),
        (
            "{{ input.name + 'x' }}",
            "error: at column 16: `+`, `-`, `*` and `**` take numbers; texts are put together by holes side by side",
        ),
        (
            "{{ input.name - 1 }}",
            "error: at column 4: tried to use - operator on unsupported types string and number",
        ),
        ("{{ 1 / 0 }}", "error: at column 4: unable to calculate 1 / 0"),
        (
            "{{ input.big * input.big * 10 }}",
            "error: at column 4: unable to calculate 18446744073709551615 * 18446744073709551615",
        ),
        ("{{ 1e308 * 10 }}", "error: at column 1: the result is too large for a number"),
    ]);
}

/// Nothing of this may panic, take long or much memory; what it gives is of no matter.
const ODD: &[&str] = &[
    "{{ 'x' * 1000000000 }}",
    "{{ 1000000000 * 'x' }}",
    "{{ [1] * 1000000000 }}",
    "{{ (1, 2) * 100000000 }}",
    "{{ 3 * 3|string }}",
    "{{ 3 * 3 is odd }}",
    "{{ 10 ** 100000 }}",
    "{{ 2 ** 127 * 2 }}",
    "{{ -(2 ** 127) }}",
    "{{ 1 // 0 }}{{ 1 % 0 }}",
    "{{ (-170141183460469231731687303715884105727 - 1) // -1 }}",
    "{{ (-170141183460469231731687303715884105727 - 1) % -1 }}",
    "{{ (-170141183460469231731687303715884105727 - 1)|abs }}",
    "{{ 340282366920938463463374607431768211455 }}",
    "{{ 99999999999999999999999999999999999999999 }}",
    "{% for i in range(100000000) %}x{% endfor %}",
    "{% for i in range(0, 10, -9223372036854775808) %}x{% endfor %}",
    "{% for i in range(9223372036854775806, 9223372036854775807, 9) %}x{% endfor %}",
    "{{ range(1, 5, 0) }}",
    "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in range(1000) %}{% for j in range(1000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "{% for a in [input, input] %}{% for b in [a, a] %}{{ b == b }}{% endfor %}{% endfor %}",
    "{% for a in input.files %}{% for b in (a, a) %}{{ b }}{% endfor %}{% endfor %}",
    "{{ input.long|replace('', input.long) }}",
    "{{ input.long|replace('x', input.long) }}",
    "{{ input.long|list|join(input.long) }}",
    "{{ input.long|list|map('replace', 'x', input.long) }}",
    "{{ input.long|indent(1000000000) }}{{ 'a'|tojson(indent=1000000000) }}",
    "{{ input.long|split('')|length }}{{ input.long|trim(input.long) }}",
    "{{ [[], [1]]|sum(start=[]) }}",
    "{{ input.long[-9223372036854775808:9223372036854775807] }}",
    "{{ input.files[-9223372036854775808] }}{{ input.files[9223372036854775807] }}",
    "{{ input.files[99999999999999999999] }}{{ input.files[0.5] }}{{ input.files['x'] }}",
    "{{ 1.5|round(2147483647) }}{{ 1.5|round(-2147483648) }}{{ 15|round(-2147483648) }}",
    "{{ 'zz'|int(0, 99) }}{{ '9' * 9 }}{{ 'nan'|float }}{{ 'inf'|float|int }}",
    "{{ 1 is divisibleby 0 }}{{ 1.5 is divisibleby 'x' }}{{ -1 is odd }}",
    "{{ input.n|upper }}{{ input|upper }}{{ none|upper }}{{ input.people|sort }}",
    "{{ input.people|min }}{{ input.empty|max }}{{ input.empty|first }}{{ ''|last }}",
    "{{ vars.items|dictsort(by='x') }}",
    "{{ '\\u' }}{{ '\\ud800' }}{{ '\\x' }}{{ '\\' }}",
    "{{ loop }}{{ self }}{{ super() }}{{ caller() }}{{ debug() }}{{ namespace() }}{{ dict() }}",
    "{% for x in input.files %}{{ loop }}{{ loop(x) }}{{ loop.cycle() }}{{ loop.changed() }}{% endfor %}",
    "{% for x in input.files %}{{ loop.cycle('a', 'b') }}{{ loop.cycle }}{% endfor %}",
    "{% for x, y in input.files %}{% endfor %}{% for in in in %}{% endfor %}{% for %}{% if %}{% elif %}{% else %}",
    "{% endfor %}{% endif %}{% else %}{% elif x %}{% %}{% 1 %}{%%}{{}}",
    "{%- raw -%} {{ {%- endraw -%}{% raw %}{% endraw -",
    "{% include 'x' %}{% extends 'x' %}{% import 'x' as y %}{% macro f() %}{% endmacro %}",
    "{% with a = 1 %}{% endwith %}{% do f() %}{% filter upper %}{% endfilter %}{% autoescape true %}",
    "{{ input.files|map }}{{ input.files|map('nope') }}{{ input.files|map(attribute=1) }}",
    "{{ input.files|map('map', 'map') }}{{ 1|map('upper') }}{{ input.files|select('nope') }}",
    "{{ f(*input.files) }}{{ range(*input.files) }}{{ range(**vars) }}{{ {'a': *a} }}",
    "{{ input.files is in input.files }}{{ * 2 }}{{ + 2 }}{{ 2 + }}{{ 2 * }}{{ a.+ }}",
    "{{ input|tojson }}{{ input.long ~ input.long }}",
    "{{ {input: 1} }}{{ {[1]: 1} }}{{ {none: 1} }}",
    "{{ a.1.2.3 }}{{ a.1e5 }}{{ 1e }}{{ 1e+ }}{{ 1_ }}{{ 1__0 }}{{ 0b2 }}{{ .5 }}{{ 1..2 }}",
    "\0{{ '\0' }}{{ input['\0value'] }}{{ \0value }}",
    "{{ steps }}{{ steps['a' 'b'].output }}{{ steps[a].output }}{{ steps.tests['output'] }}",
];

#[test]
fn nothing_takes_long_or_panics() {
    for text in ODD {
        // Each of the tags alone, too: the first that is wrong hides the others.
        let tags = text.split_inclusive("}}").chain(text.split_inclusive("%}"));
        for text in tags.chain([*text]) {
            assert!(!value(text).contains("engine failed"), "{text}");
            assert!(!value(&format!("{text}.")).contains("engine failed"), "{text}");
        }
    }
}

#[test]
fn depth_is_refused_before_anything_recurses() {
    let wraps = [
        ("{{ ", "(", "1", ")", " }}"),
        ("{{ ", "[", "", "]", " }}"),
        ("{{ ", "{1:", "1", "}", " }}"),
        ("{{ ", "-", "1", "", " }}"),
        ("{{ ", "not ", "1", "", " }}"),
        ("{{ ", "1+", "1", "", " }}"),
        ("{{ ", "1 if 1 else ", "1", "", " }}"),
        ("{{ ", "1 or ", "1", "", " }}"),
        ("{{ ", "1<", "1", "", " }}"),
        ("{{ 1", "|abs", "", "", " }}"),
        ("{{ a", ".b", "", "", " }}"),
        ("{{ a", "[0]", "", "", " }}"),
        ("{{ a", "[a", "", "]", " }}"),
        ("{{ 1", " is odd", "", "", " }}"),
        ("{{ 1", " if 1", "", "", " }}"),
        ("", "{% if 1 %}", "x", "{% endif %}", ""),
        ("", "{% for x in [1] %}", "x", "{% endfor %}", ""),
        ("{% if 1 %}", "{% elif 1 %}", "", "", "{% endif %}"),
        ("{% for ", "(", "x", ")", " in [1] %}{% endfor %}"),
        ("{% for x in ", "(", "[1]", ")", " %}{% endfor %}"),
        ("{% for ", "x, ", "y", "", " in [1] %}{% endfor %}"),
    ];
    // Half of what a thread of a pool may have.
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let run = move || {
        let mut nested = json!(1);
        for _ in 1..crate::value::NESTING_MAX {
            nested = json!([nested]);
        }
        let scope = Fixture(json!({"roots": {"input": nested, "vars": [nested]}}));
        let whole = Template::parse("{{ input }}").unwrap();
        assert_eq!(whole.evaluate(&scope).unwrap(), nested);
        let text = Template::parse(".{{ input }}{{ input == input }}").unwrap();
        assert!(text.evaluate(&scope).unwrap().as_str().unwrap().ends_with("]true"));
        let deeper = Template::parse("{{ [input] }}").unwrap();
        assert!(deeper.evaluate(&scope).unwrap_err().message.contains("nests deeper"));
        let given = Template::parse("{{ vars }}").unwrap();
        assert!(given.evaluate(&scope).unwrap_err().message.contains("nests deeper"));
        for (start, open, inner, close, end) in wraps {
            for depth in [1, 8, 14, 15, 16, 17, 32, 60, 84, 100, 120, 127, 200, 250, 500] {
                let text = [start, &open.repeat(depth), inner, &close.repeat(depth), end].concat();
                let value = value(&text);
                assert!(!value.contains("engine failed"), "{text}");
                assert!(depth < 500 || value.contains("more than"), "{text}: {value}");
            }
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

#[test]
fn limits_are_kept() {
    let limited = |scope: Json, text: &str| {
        let template = Template::parse(text).unwrap();
        template.evaluate(&Fixture(scope)).unwrap_err().message
    };
    let scope = |input: Json| json!({"roots": {"input": input}});
    let long = "x".repeat(VALUE_BYTES_MAX);
    assert!(limited(scope(json!(long)), "{{ input }}").contains("reads values of more than"));
    let handed_on = Template::parse("{{ input }}").unwrap();
    let most = json!("x".repeat(VALUE_BYTES_MAX - 100));
    assert_eq!(handed_on.evaluate(&Fixture(scope(most.clone()))).unwrap(), most);
    assert!(limited(scope(most.clone()), ".{{ input }}").contains("more than 65536 bytes"));
    assert!(limited(scope(most.clone()), "{{ [input, input] }}").contains("makes a value of more"));
    // Only what is read counts.
    let part = Template::parse("{{ input.n }}").unwrap();
    assert_eq!(part.evaluate(&Fixture(scope(json!({"n": 1, "long": long})))).unwrap(), 1);
    let unread = Fixture(json!({"steps": {"a": {"status": "succeeded", "output": long}}}));
    let status = Template::parse("{{ steps.a.status }}").unwrap();
    assert_eq!(status.evaluate(&unread).unwrap(), "succeeded");
    let looped = "{% for i in range(1000) %}{% if input == 'x' %}{% endif %}{% endfor %}";
    assert!(limited(scope(most), looped).contains("takes more than 312"));
    assert!(Template::parse(looped).unwrap().evaluate(&Fixture(scope(json!("y")))).is_ok());

    let error = Template::parse(&"x".repeat(SOURCE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(error.message, "a template of 16385 bytes is too long (limit 16384)");
}

#[test]
fn every_filter_and_test_that_is_known_is_there() {
    for name in filters::FILTERS {
        let value = value(&format!("{{{{ input.n|{name} }}}}"));
        assert!(!value.contains("unknown filter"), "{value}");
    }
    for name in filters::TESTS {
        let value = value(&format!("{{{{ [1]|select('{name}')|list }}}}"));
        assert!(!value.contains("unknown test"), "{value}");
    }
    assert!(filters::FILTERS.is_sorted() && filters::TESTS.is_sorted());
}

#[test]
fn templates_are_texts_in_documents() {
    let template = Template::parse("Hello {{ input.name }}").unwrap();
    let text = serde_json::to_string(&template).unwrap();
    assert_eq!(text, "\"Hello {{ input.name }}\"");
    assert_eq!(serde_json::from_str::<Template>(&text).unwrap(), template);
    assert!(serde_json::from_str::<Template>("\"{{\"").is_err());
    assert_eq!(
        format!("{template} {template:?}"),
        "Hello {{ input.name }} `Hello {{ input.name }}`"
    );
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Template>();
}

const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{{-",
    "-}}",
    "{%-",
    "+%}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ".",
    "|",
    "*",
    "+",
    "-",
    "/",
    "//",
    "%",
    "**",
    "~",
    "=",
    "==",
    "<",
    "'",
    "'x'",
    "\"y\"",
    "1",
    "0",
    "2.5",
    "1e5",
    "100000000",
    "9223372036854775807",
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "in",
    "endfor",
    "is",
    "not",
    "and",
    "or",
    "raw",
    "endraw",
    "set",
    "recursive",
    "loop",
    "range",
    "input",
    "n",
    "files",
    "long",
    "key",
    "steps",
    "tests",
    "output",
    "none",
    "true",
    "null",
    "upper",
    "join",
    "list",
    "map",
    "replace",
    "string",
    "length",
    "first",
    "sum",
    "items",
    "default",
    "defined",
    "odd",
    "attribute",
    "x",
    "\\",
    "\n",
    "ä",
    "\0",
];

/// Well-formed, with values at the edges.
fn expression() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(
        &[
            "0",
            "1",
            "-1",
            "3",
            "1.5",
            "-0.0",
            "1e308",
            "9223372036854775807",
            "-9223372036854775808",
            "170141183460469231731687303715884105727",
            "''",
            "'x'",
            "'1,2'",
            "true",
            "none",
            "[]",
            "[3, 1, 2]",
            "['b', 'A']",
            "{}",
            "{'a': 1}",
            "(1, 'x')",
            "input.n",
            "input.files",
            "input.people",
            "input.long",
            "input.key",
            "input.half",
            "vars.items",
            "range(3)",
            "nope",
        ][..],
    );
    let atoms = atoms.prop_map(String::from);
    atoms.prop_recursive(4, 16, 3, |inner| {
        let filter = prop::sample::select(filters::FILTERS);
        let test = prop::sample::select(&filters::TESTS[6..]);
        let operators = ["+", "-", "*", "/", "//", "%", "**", "==", "<", "in", "and", "or", "if"];
        let operator = prop::sample::select(operators.to_vec());
        let named = prop::sample::select(
            &[
                "attribute='age'",
                "reverse=true",
                "default=0",
                "width=3",
                "first=true",
                "by='value'",
                "case_sensitive=true",
                "method='floor'",
                "indent=2",
                "'upper'",
                "'length'",
                "'odd'",
                "'age', 'gt'",
            ][..],
        );
        prop_oneof![
            (inner.clone(), filter.clone()).prop_map(|(a, f)| format!("({a})|{f}")),
            (inner.clone(), filter.clone(), inner.clone())
                .prop_map(|(a, f, b)| format!("({a})|{f}({b})")),
            (inner.clone(), filter, named).prop_map(|(a, f, b)| format!("({a})|{f}({b})")),
            (inner.clone(), test.clone()).prop_map(|(a, t)| format!("({a}) is {t}")),
            (inner.clone(), test, inner.clone()).prop_map(|(a, t, b)| format!("({a}) is {t}({b})")),
            (inner.clone(), operator, inner.clone())
                .prop_map(|(a, o, b)| format!("({a}) {o} ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a})[{b}:{c}]")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("[{a}, {b}, {c}]")),
        ]
    })
}

proptest! {
    #[test]
    fn any_soup_of_words_is_harmless(words in prop::collection::vec(prop::sample::select(WORDS), 0..24),
        spaced in any::<bool>(), hole in any::<bool>()) {
        let soup = words.join(if spaced { " " } else { "" });
        let soup = if hole { format!("{{{{ {soup} }}}}") } else { soup };
        let value = value(&soup);
        prop_assert!(!value.contains("engine failed"), "{}", soup);
        prop_assert!(value.len() < 500_000);
    }

    #[test]
    fn any_expression_is_harmless(text in expression()) {
        let value = value(&format!("{{{{ {text} }}}}"));
        prop_assert!(!value.contains("engine failed"), "{}", text);
        prop_assert!(value.len() < 2 * VALUE_BYTES_MAX, "{}", text);
    }

    /// What is put in to refuse texts changes nothing for numbers.
    #[test]
    fn guards_leave_numbers_as_they_are(
        numbers in prop::collection::vec(prop_oneof!["[1-9]", "[1-9]\\.[1-9]", "-[1-9]", "\\([1-3] - [4-9]\\)", "\\([1-3] \\* [4-9]\\)|abs", "n", "list\\[0\\]"], 1..9),
        operators in prop::collection::vec(prop::sample::select(&["+", "-", "*", "/", "//", "%", "+", "*"][..]), 8),
    ) {
        let mut text = String::new();
        for (number, operator) in numbers.iter().zip(&operators) {
            let bracketed = number.contains('|').then(|| format!("({number})"));
            text += &format!("{} {operator} ", bracketed.as_ref().unwrap_or(number));
        }
        text += "1";
        let context = minijinja::context!(n => 7, list => [2.5]);
        let mut plain = minijinja::Environment::empty();
        plain.add_filter("abs", minijinja::filters::abs);
        let expected = plain.compile_expression(&text).unwrap().eval(context);
        let scope = Fixture(json!({"steps": {
            "n": {"status": "", "output": 7}, "list": {"status": "", "output": [2.5]},
        }}));
        let found = Template::parse(&format!("{{{{ {text} }}}}")).unwrap().evaluate(&scope);
        match (expected, found) {
            (Ok(expected), Ok(found)) => {
                prop_assert_eq!(serde_json::to_value(expected).unwrap(), found, "{}", text);
            }
            (Err(_), Err(_)) => {}
            (expected, found) => prop_assert!(false, "{}: {:?} {:?}", text, expected, found),
        }
    }
}
