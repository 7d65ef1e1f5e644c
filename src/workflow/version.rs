//! Which definition is meant: ids, version numbers, and what tells contents apart.

use std::fmt::Write;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{Definition, Workflow};
use crate::id::check_name;

/// The parts of a name that may end in a version, as in `review@3`; an error for a version that no
/// definition can have.
pub(crate) fn parts(name: &str) -> Result<(&str, Option<u32>), String> {
    let Some((id, number)) = name.rsplit_once('@') else {
        return Ok((name, None));
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok((name, None));
    }
    match number.parse() {
        Ok(number) if number > 0 => Ok((id, Some(number))),
        _ => Err(format!("`{number}` is no version; they count from 1 to {}", u32::MAX)),
    }
}

/// Whether a text can be the id of a workflow; the reason if not.
pub(super) fn check_id(id: &str) -> Result<(), String> {
    check_name(id, &[])?;
    match parts(id) {
        Ok((_, None)) => Ok(()),
        _ => Err(format!("`{id}` ends like a version; an id may not")),
    }
}

/// The definition that a sub-workflow step of a workflow, or of one that it runs, means: that workflow
/// itself, or, of those that are known, the one of the version that it names, or else the one of the
/// highest.
pub(crate) fn resolve<'a>(
    name: &str,
    root: &'a Workflow,
    known: impl Iterator<Item = &'a Workflow>,
) -> Option<&'a Workflow> {
    let (id, version) = parts(name).ok()?;
    let fits = |workflow: &&Workflow| {
        workflow.id() == id && (version.is_none() || workflow.version() == version)
    };
    Some(root).filter(fits).or_else(|| known.filter(fits).max_by_key(|known| known.version()))
}

/// What there is of the workflow that a name means, for who finds nothing by it.
pub(crate) fn missing(name: &str, known: &[String]) -> (String, Option<String>) {
    let id = parts(name).map_or(name, |(id, _)| id);
    let same: Vec<&str> = known
        .iter()
        .map(String::as_str)
        .filter(|other| parts(other).is_ok_and(|(other, _)| other == id))
        .collect();
    match same.as_slice() {
        [] => (format!("the engine knows no workflow `{name}`"), None),
        there => {
            let there: Vec<String> = there.iter().map(|other| format!("`{other}`")).collect();
            let message = format!("the engine has no `{name}`; it has {}", there.join(", "));
            let hint = "register the version that is meant with EngineBuilder::workflow";
            (message, Some(hint.into()))
        }
    }
}

impl Workflow {
    /// The number that its author gave it. One number is one content: an engine that knows a
    /// definition by its number refuses another content under the same one.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        self.definition().version
    }

    /// What sub-workflow steps name it by: its id, and its version if it has one, as in `review@3`.
    #[must_use]
    pub fn reference(&self) -> String {
        match self.version() {
            Some(version) => format!("{}@{version}", self.id()),
            None => self.id().to_string(),
        }
    }

    /// What tells it from all other contents: the SHA-256 of its document, in hexadecimal. The same
    /// for every engine and every order in which the keys of its maps were written.
    ///
    /// ```
    /// use stepwell::{Step, Workflow};
    ///
    /// let build = |task| Workflow::builder("review").version(3).step(Step::task("a", task)).build();
    /// let (one, other) = (build("lint")?, build("test")?);
    /// assert_eq!(one.reference(), "review@3");
    /// assert_eq!(one.digest(), build("lint")?.digest());
    /// assert_ne!(one.digest(), other.digest());
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    #[must_use]
    pub fn digest(&self) -> &str {
        self.0.digest.get_or_init(|| digest_of(&canonical(self.definition())))
    }
}

/// The SHA-256 of a text, in hexadecimal.
pub(crate) fn digest_of(text: &str) -> String {
    let mut digest = String::with_capacity(64);
    for byte in Sha256::digest(text) {
        // A string takes everything.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// The document without spaces, the keys of every map sorted: hosts may have `serde_json` keep them
/// as they were written.
pub(crate) fn canonical(definition: &Definition) -> String {
    let mut text = String::new();
    // Every part of a definition can be written as JSON.
    write(&serde_json::to_value(definition).unwrap_or_default(), &mut text);
    text
}

fn write(value: &Json, to: &mut String) {
    match value {
        Json::Object(map) => {
            let mut entries: Vec<(&String, &Json)> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            to.push('{');
            for (place, (key, value)) in entries.into_iter().enumerate() {
                to.push_str(if place > 0 { "," } else { "" });
                write(&Json::from(key.as_str()), to);
                to.push(':');
                write(value, to);
            }
            to.push('}');
        }
        Json::Array(list) => {
            to.push('[');
            for (place, value) in list.iter().enumerate() {
                to.push_str(if place > 0 { "," } else { "" });
                write(value, to);
            }
            to.push(']');
        }
        plain => {
            let _ = write!(to, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_behind_the_last_at() {
        assert_eq!(parts("review@3"), Ok(("review", Some(3))));
        assert_eq!(parts("a@b@12"), Ok(("a@b", Some(12))));
        for id in ["review", "review@", "review@v3", "@", "ann@example.org"] {
            assert_eq!(parts(id), Ok((id, None)), "{id}");
        }
        for wrong in ["review@0", "review@4294967296", "r@99999999999999999999"] {
            assert!(parts(wrong).is_err(), "{wrong}");
            assert!(check_id(wrong).is_err(), "{wrong}");
        }
        assert!(check_id("review@3").is_err() && check_id("review@v3").is_ok());
    }

    #[test]
    fn the_digest_is_that_of_the_standard() {
        // FIPS 180-4, the message "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of("abc"), expected);
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let mut text = String::new();
        write(&serde_json::json!({"b": [{"z": 1, "a": "\""}], "a": null}), &mut text);
        assert_eq!(text, r#"{"a":null,"b":[{"a":"\"","z":1}]}"#);
    }
}
