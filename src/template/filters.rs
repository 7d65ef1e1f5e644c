//! The filters, tests and functions that templates have.
//!
//! Of minijinja's own only those that make no more than they are given; [`functions`] has others,
//! with limits. There is no time and no chance among them.

use minijinja::filters as jinja;
use minijinja::{Environment, tests};

use super::functions;
use crate::expr::Type;

macro_rules! offer {
    ($names:ident, $add_all:ident, $add:ident, $($name:literal => $function:expr,)*) => {
        pub(super) const $names: &[&str] = &[$($name),*];

        fn $add_all(env: &mut Environment<'static>) {
            $(env.$add($name, $function);)*
        }
    };
}

offer! { FILTERS, add_filters, add_filter,
    "abs" => jinja::abs,
    "bool" => jinja::bool,
    "capitalize" => jinja::capitalize,
    "count" => jinja::length,
    "d" => jinja::default,
    "default" => jinja::default,
    "dictsort" => jinja::dictsort,
    "first" => jinja::first,
    "float" => jinja::float,
    "indent" => functions::indent,
    "int" => functions::int,
    "items" => jinja::items,
    "join" => functions::join,
    "last" => jinja::last,
    "length" => jinja::length,
    "lines" => jinja::lines,
    "list" => jinja::list,
    "lower" => jinja::lower,
    "map" => functions::map,
    "max" => jinja::max,
    "min" => jinja::min,
    "reject" => jinja::reject,
    "rejectattr" => jinja::rejectattr,
    "replace" => functions::replace,
    "reverse" => jinja::reverse,
    "round" => functions::round,
    "select" => jinja::select,
    "selectattr" => jinja::selectattr,
    "sort" => jinja::sort,
    "split" => functions::split,
    "string" => functions::string,
    "sum" => functions::sum,
    "title" => jinja::title,
    "tojson" => functions::tojson,
    "trim" => functions::trim,
    "upper" => jinja::upper,
}

// Without `in`: by `select` it would compare every item of a list with every item of another.
offer! { TESTS, add_tests, add_test,
    "!=" => tests::is_ne,
    "<" => tests::is_lt,
    "<=" => tests::is_le,
    "==" => tests::is_eq,
    ">" => tests::is_gt,
    ">=" => tests::is_ge,
    "boolean" => tests::is_boolean,
    "defined" => tests::is_defined,
    "divisibleby" => functions::is_divisible_by,
    "endingwith" => tests::is_endingwith,
    "eq" => tests::is_eq,
    "even" => tests::is_even,
    "false" => tests::is_false,
    "float" => tests::is_float,
    "ge" => tests::is_ge,
    "gt" => tests::is_gt,
    "integer" => tests::is_integer,
    "iterable" => tests::is_iterable,
    "le" => tests::is_le,
    "lt" => tests::is_lt,
    "mapping" => tests::is_mapping,
    "ne" => tests::is_ne,
    "none" => tests::is_none,
    "number" => tests::is_number,
    "odd" => tests::is_odd,
    "sequence" => tests::is_sequence,
    "startingwith" => tests::is_startingwith,
    "string" => tests::is_string,
    "true" => tests::is_true,
}

/// The type of what a filter makes, if that is the same for all values; `is_called` is whether it has
/// arguments, among which may be a value of any type that stands in.
pub(super) fn makes(filter: &str, is_called: bool) -> Type {
    match filter {
        "capitalize" | "indent" | "join" | "lower" | "replace" | "string" | "title" | "tojson"
        | "trim" | "upper" => Type::Text,
        "abs" | "count" | "length" | "round" | "sum" => Type::Number,
        "float" | "int" if !is_called => Type::Number,
        "bool" => Type::Boolean,
        "dictsort" | "items" | "lines" | "list" | "map" | "reject" | "rejectattr" | "select"
        | "selectattr" | "sort" | "split" => Type::List(Box::new(Type::Any)),
        _ => Type::Any,
    }
}

/// Names that are there without a run.
pub(super) const GLOBALS: [&str; 2] = ["null", "range"];

pub(super) fn add_to(env: &mut Environment<'static>) {
    add_filters(env);
    add_tests(env);
    env.add_function("range", functions::range);
    env.add_global("null", ());
}
