//! Problems of a definition: where, what, and what to do now.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a problem makes a definition unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Works, but probably not as meant.
    Warning,
    /// Cannot be built.
    Error,
}

/// One thing that is wrong with a definition.
///
/// Prints as `steps.deploy.after: there is no step `tets` (did you mean `test`?)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// Whether the definition can be used all the same.
    pub severity: Severity,
    /// Where: the path inside the definition, as in `steps.deploy.when`.
    pub path: String,
    /// Line of the document, from 1, when it was read from one.
    pub line: Option<u32>,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem that makes the definition unusable.
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            line: None,
            message: message.into(),
            hint: None,
        }
    }

    /// A problem that a definition may have and still work.
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }

    /// The same, with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, hinting at the existing name that is nearest to the one that was written, if any
    /// is near.
    #[must_use]
    pub fn suggest<'a>(self, written: &str, existing: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, existing) {
            Some(name) => self.hint(format!("did you mean `{name}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// All problems of a definition, in the order in which they were found.
///
/// Keeps the first [`PROBLEMS_MAX`] and counts the rest, so that a document that is wrong in a
/// million places costs no more to report than one that is wrong in a hundred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    list: Vec<Problem>,
    more: usize,
    errors: usize,
}

/// How many problems are kept with their texts.
pub const PROBLEMS_MAX: usize = 100;

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.errors += usize::from(problem.severity == Severity::Error);
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Whether further ones are only counted: their texts, and hints above all, are wasted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.list.len() >= PROBLEMS_MAX
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        let errors =
            other.errors - other.list.iter().filter(|p| p.severity == Severity::Error).count();
        for problem in other.list {
            self.push(problem);
        }
        self.errors += errors;
        self.more += other.more;
    }

    /// The problems that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Only those that make the definition unusable, of those that were kept.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.iter().filter(|problem| problem.severity == Severity::Error)
    }

    /// Only those that leave the definition usable, of those that were kept.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// Whether any makes the definition unusable.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether there are none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are, with those that were only counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len() + self.more
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}")?;
        }
        if self.more > 0 {
            writeln!(f, "... and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Names compared per hint: a hint is worth milliseconds, not seconds.
const CANDIDATES_MAX: usize = 10_000;

/// The name most like `written`, if any differs in no more than a third of its letters
/// (Damerau-Levenshtein distance: letters added, left out, changed, or swapped with a neighbour).
///
/// ```
/// assert_eq!(stepwell::error::nearest("tets", ["lint", "test"]), Some("test"));
/// assert_eq!(stepwell::error::nearest("zzz", ["lint", "test"]), None);
/// ```
pub fn nearest<'a>(written: &str, existing: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<char> = written.chars().take(64).collect();
    let allowed = (written.len() / 3).max(1);
    existing
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|name| name.len().abs_diff(written.len()) <= allowed * 4)
        .map(|name| (distance(&written, &name.chars().take(64).collect::<Vec<_>>()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Restricted Damerau-Levenshtein distance over three rows.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_problems_are_kept_but_all_are_counted() {
        let mut problems = Problems::default();
        for _ in 0..PROBLEMS_MAX {
            problems.push(Problem::warning("a", "b"));
        }
        problems.push(Problem::error("a", "b"));
        let mut all = Problems::default();
        all.extend(problems);
        assert_eq!(all.len(), PROBLEMS_MAX + 1);
        assert!(all.has_errors());
        assert!(all.to_string().ends_with("... and 1 more\n"));
    }

    #[test]
    fn swapped_letters_are_one_mistake() {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&letters("charge"), &letters("chrage")), 1);
        assert_eq!(distance(&letters(""), &letters("abc")), 3);
    }
}
