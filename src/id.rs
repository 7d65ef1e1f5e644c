//! Names: of steps, of runs, and of one step instance inside a run.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a step, a workflow or a run, in bytes: names stand in every message and index.
pub const NAME_BYTES_MAX: usize = 200;

/// The name of a step inside its workflow or body, as its author wrote it.
///
/// Any text of 1 to [`NAME_BYTES_MAX`] bytes without control characters, `/`, `[` or `]`, which
/// step paths need, and without spaces at its ends. `build()` checks this, so that all
/// bad names of a workflow are reported together. Cloning shares the text.
///
/// ```
/// use stepwell::StepId;
///
/// assert_eq!(StepId::from("lint").as_str(), "lint");
/// assert!(StepId::from("a/b").check().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StepId(Arc<str>);

impl StepId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this can name a step; the error says what is wrong with it.
    ///
    /// # Errors
    /// One sentence, fit to stand behind the place where the name was written.
    pub fn check(&self) -> Result<(), String> {
        check_name(&self.0, &['/', '[', ']'])
    }
}

impl<'de> Deserialize<'de> for StepId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.into())
    }
}

impl From<&str> for StepId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for StepId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&Self> for StepId {
    fn from(id: &Self) -> Self {
        id.clone()
    }
}

impl std::borrow::Borrow<str> for StepId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for StepId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The name of a run: given by whoever starts it, or a UUID version 7 (RFC 9562) made by the engine.
///
/// Starting twice under one name is starting once.
#[derive(Clone)]
pub struct RunId {
    text: Arc<str>,
    /// Computed once: a run is looked up at every commit.
    hash: u64,
}

/// Keyed, as users choose names: nobody can make many that collide.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl RunId {
    /// A run id from text.
    ///
    /// # Errors
    /// One sentence when it is empty, longer than [`NAME_BYTES_MAX`], has control characters or
    /// spaces at its ends.
    pub fn new(text: impl AsRef<str>) -> Result<Self, String> {
        check_name(text.as_ref(), &[])?;
        Ok(Self::of(text.as_ref()))
    }

    fn of(text: &str) -> Self {
        Self { hash: HASHER.hash_one(text), text: text.into() }
    }

    /// A time-ordered id from a time in milliseconds and 10 random bytes.
    #[must_use]
    pub fn generated(millis: u64, random: [u8; 10]) -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        Self::of(uuid.as_hyphenated().encode_lower(&mut text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for RunId {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for RunId {}

impl PartialOrd for RunId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RunId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for RunId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// One step instance inside one run, as numbers: the scope it stands in and its place in the plan.
///
/// Scope 0 is the workflow itself; each opened body of a composite step is the next number. Dense
/// numbers keep journal records small; a run translates them to a path such as
/// `build/tests[3]/unit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepKey {
    /// The scope, counted from 0 in the order of opening.
    pub scope: u32,
    /// The step's place in its body, in the order of definition.
    pub step: u32,
}

impl StepKey {
    /// The step at this place of the outermost scope.
    #[must_use]
    pub const fn root(step: u32) -> Self {
        Self { scope: 0, step }
    }
}

/// Whether a text can be a name; the reason if not.
pub(crate) fn check_name(text: &str, reserved: &[char]) -> Result<(), String> {
    // Nearly all names are like this, and definitions can have very many.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    if text.is_empty() {
        return Err("a name may not be empty".into());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("a name of {} bytes is too long (limit {NAME_BYTES_MAX})", text.len()));
    }
    if text.trim() != text {
        return Err(format!("the name `{text}` begins or ends with a space"));
    }
    match text.chars().find(|c| c.is_control() || reserved.contains(c)) {
        Some(bad) => Err(format!("the name `{}` contains {bad:?}", text.escape_debug())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_run_ids_sort_by_time() {
        let (early, late) = (RunId::generated(1, [9; 10]), RunId::generated(2, [0; 10]));
        assert!(early < late);
        assert_eq!(early.as_str().len(), 36);
    }

    #[test]
    fn names_with_reserved_characters_are_refused() {
        for bad in ["", " a", "a\n", "a/b", "a[0]", &"x".repeat(201)] {
            assert!(StepId::from(bad).check().is_err(), "{bad}");
        }
        assert!(StepId::from("NFCORE_BACASS.FASTQC_2").check().is_ok());
    }
}
