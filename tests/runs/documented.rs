//! Tables and columns as the documentation lists them.

use std::collections::BTreeMap;

/// Tables and views, each with its columns and their types.
pub(crate) type Schema = BTreeMap<String, BTreeMap<String, String>>;

/// Each line of the page that begins with a name is about a table or a view. Its columns stand in the
/// third cell, as `name` or `name type`; what is in parentheses explains them.
pub(crate) fn lists_exactly(page: &str, real: &Schema) {
    let rows = page.lines().filter_map(|line| line.strip_prefix("/// | `"));
    let mut listed = Schema::new();
    let mut types = 0;
    for row in rows {
        let (name, rest) = row.split_once('`').unwrap();
        let columns = rest.split('|').nth(2).unwrap_or_else(|| panic!("{row}"));
        let columns = quoted(columns).into_iter().map(|column| {
            let real_type = || real.get(name).and_then(|columns| columns.get(&column)).cloned();
            match column.split_once(' ') {
                Some((column, kind)) => {
                    types += 1;
                    (column.to_owned(), kind.to_owned())
                }
                // Of which it does not say what it is.
                None => (column.clone(), real_type().unwrap_or_default()),
            }
        });
        let columns: Vec<_> = columns.collect();
        let count = columns.len();
        let columns = BTreeMap::from_iter(columns);
        assert_eq!(columns.len(), count, "{name} has a column twice");
        assert_eq!(listed.insert(name.to_owned(), columns), None, "{name} is listed twice");
    }
    assert!(types > 40, "only {types} columns have types");
    for (name, columns) in real {
        assert_eq!(listed.get(name), Some(columns), "{name} as it is listed, and as it is");
    }
    assert!(listed.keys().eq(real.keys()), "{:?} {:?}", listed.keys(), real.keys());
}

/// What stands between back quotes, and outside of parentheses.
fn quoted(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut outside = String::new();
    for letter in text.chars() {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        if depth == 0 && letter != ')' {
            outside.push(letter);
        }
    }
    outside.split('`').skip(1).step_by(2).map(String::from).collect()
}
