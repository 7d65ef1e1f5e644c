//! Removing secrets from what is stored and shown.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde_json::{Map, Number};
use zeroize::{Zeroize, Zeroizing};

use super::keys::Secret;
use super::needle::{NEEDLE_BYTES_MIN, Needle, forms};
use super::seal::is_envelope;
use super::view::View;
use crate::value::Json;

/// What stands where a secret was.
const MARK: &str = "[secret]";

/// Shorter secrets are not looked for, in characters: they would erase half of everything.
const SECRET_CHARS_MIN: usize = 4;

/// Shorter lines of a secret are not looked for by themselves, in characters.
const LINE_CHARS_MIN: usize = 8;

/// Shorter forms of a secret are not looked for across line breaks, in bytes.
const WRAPPED_BYTES_MIN: usize = 16;

/// Texts are cut at this many bytes at the least, so that shorter ones are whole.
const CUT_BYTES_MIN: usize = 190;
/// Bytes of a secret that are looked for at the end of a text that was cut.
const CUT_OFF_BYTES_MAX: usize = 256;

/// Learns secrets, and removes them from texts and JSON.
///
/// It finds what is written as it is, with percent or JSON escapes, in base64 of either alphabet (also
/// as part of something longer, and broken into lines), and in hexadecimal. One pass over a text finds all of them, however
/// many there are.
#[derive(Default)]
pub(crate) struct Scrubber {
    /// Sorted, without doubles.
    needles: Vec<Needle>,
    /// A bit for each hash of a needle's first four bytes; empty without needles.
    starts: Zeroizing<Vec<u64>>,
    /// Whether a secret could appear as a JSON number.
    numbers: bool,
}

impl Scrubber {
    /// One that knows no secrets.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Looks for this secret too, unless it is shorter than four characters.
    pub(crate) fn learn(&mut self, secret: &Secret) {
        let text = secret.expose();
        // White space at its ends is often lost, as when a file's last line break is.
        let core = text.trim();
        if core.chars().count() < SECRET_CHARS_MIN {
            return;
        }
        let lines = core.lines().map(str::trim).filter(|l| l.chars().count() >= LINE_CHARS_MIN);
        self.needles.extend([text, core].into_iter().chain(lines).flat_map(forms));
        self.needles.sort_by(|a, b| a.order().cmp(&b.order()));
        self.needles.dedup();
        self.numbers |= core.parse::<Number>().is_ok();
        self.starts.resize(SLOTS / 64, 0);
        for needle in &self.needles {
            if let Some(first) = needle.bytes.first_chunk() {
                let slot = slot(*first);
                self.starts[slot / 64] |= 1 << (slot % 64);
            }
        }
    }

    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// The text with `[secret]` in place of every secret.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let found = self.find(text);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = String::with_capacity(text.len());
        let mut kept = 0;
        for range in found {
            clean.push_str(&text[kept..range.start]);
            clean.push_str(MARK);
            kept = range.end;
        }
        clean.push_str(&text[kept..]);
        Cow::Owned(clean)
    }

    /// The beginning of a secret at the end of a text that is so long that it may have been cut.
    fn cut_off(&self, text: &str) -> Option<Range<usize>> {
        let whole = text.trim_end_matches("...");
        if whole.len() < CUT_BYTES_MIN {
            return None;
        }
        let longest = |needle: &Needle| {
            let most = needle.bytes.len().min(CUT_OFF_BYTES_MAX);
            (SECRET_CHARS_MIN..most)
                .rev()
                .find(|length| whole.as_bytes().ends_with(&needle.bytes[..*length]))
        };
        let length = self.needles.iter().filter_map(longest).max()?;
        let mut start = whole.len() - length;
        while !whole.is_char_boundary(start) {
            start -= 1;
        }
        Some(start..whole.len())
    }

    /// The value with `[secret]` in place of every secret, in texts and in the names of fields, and
    /// for a number that is one; nothing when there is none in it.
    ///
    /// Sealed values stay as they are: a short secret may stand in cipher text by chance.
    pub(crate) fn json(&self, value: &Json) -> Option<Json> {
        if self.is_empty() || !self.is_in(value) {
            return None;
        }
        let mut clean = value.clone();
        let mut left = vec![&mut clean];
        while let Some(value) = left.pop() {
            if is_envelope(value) {
                continue;
            }
            match value {
                Json::String(text) => {
                    if let Cow::Owned(clean) = self.text(text) {
                        text.zeroize();
                        *text = clean;
                    }
                }
                Json::Number(number) if self.is_number(number) => *value = Json::from(MARK),
                Json::Array(items) => left.extend(items),
                Json::Object(fields) => {
                    self.rename(fields);
                    left.extend(fields.values_mut());
                }
                Json::Null | Json::Bool(_) | Json::Number(_) => {}
            }
        }
        Some(clean)
    }

    fn is_in(&self, value: &Json) -> bool {
        let mut left = vec![value];
        while let Some(value) = left.pop() {
            let found = match value {
                Json::String(text) => !self.find(text).is_empty(),
                Json::Number(number) => self.is_number(number),
                Json::Array(items) => {
                    left.extend(items);
                    false
                }
                Json::Object(_) if is_envelope(value) => false,
                Json::Object(fields) => {
                    left.extend(fields.values());
                    fields.keys().any(|name| !self.find(name).is_empty())
                }
                Json::Null | Json::Bool(_) => false,
            };
            if found {
                return true;
            }
        }
        false
    }

    /// Whether a number is a secret. Digits inside of a longer one are there by chance.
    fn is_number(&self, number: &Number) -> bool {
        self.numbers && {
            let text = Zeroizing::new(number.to_string());
            self.needles.binary_search_by(|n| n.bytes[..].cmp(text.as_bytes())).is_ok()
        }
    }

    /// Removes secrets from the names of fields. Names that become the same are numbered, as no
    /// field may be lost.
    fn rename(&self, fields: &mut Map<String, Json>) {
        if fields.keys().all(|name| self.find(name).is_empty()) {
            return;
        }
        let (mut kept, mut changed) = (Map::new(), Vec::new());
        for (mut name, value) in std::mem::take(fields) {
            match self.text(&name) {
                Cow::Borrowed(_) => drop(kept.insert(name, value)),
                Cow::Owned(clean) => {
                    name.zeroize();
                    changed.push((clean, value));
                }
            }
        }
        let mut number = 2;
        for (mut name, value) in changed {
            let base = name.len();
            while kept.contains_key(&name) {
                name.truncate(base);
                name.push_str(&format!(" {number}"));
                number += 1;
            }
            kept.insert(name, value);
        }
        *fields = kept;
    }

    /// What to remove from a text: in order, without overlaps.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.is_empty() {
            return found;
        }
        self.search(text.as_bytes(), |range| found.push(range));
        for view in [View::percent(text), View::json(text)].into_iter().flatten() {
            self.search(&view.bytes, |range| found.push(view.origin(range)));
        }
        found.extend(self.cut_off(text));
        if let Some(view) = View::unwrapped(text) {
            self.search(&view.bytes, |range| {
                let long = range.len() >= WRAPPED_BYTES_MIN;
                found.extend(long.then(|| view.origin(range)).map(|range| trimmed(text, range)));
            });
        }
        // Else a secret like `secret` would grow brackets whenever a text passes here again.
        found.retain(|range| !is_in_mark(text.as_bytes(), range));
        found.sort_by_key(|range| range.start);
        // One needle after the other would leave the rest of the second where two secrets overlap.
        found.dedup_by(|next, last| {
            let overlap = next.start < last.end;
            last.end = if overlap { last.end.max(next.end) } else { last.end };
            overlap
        });
        found
    }

    fn search(&self, text: &[u8], mut found: impl FnMut(Range<usize>)) {
        for (at, window) in text.windows(NEEDLE_BYTES_MIN).enumerate() {
            let Some(slot) = window.first_chunk().map(|first| slot(*first)) else { continue };
            if self.starts.get(slot / 64).is_none_or(|bits| bits >> (slot % 64) & 1 == 0) {
                continue;
            }
            let from = self.needles.partition_point(|needle| &needle.bytes[..] < window);
            let alike = self.needles[from..].iter().take_while(|n| n.bytes.starts_with(window));
            alike.filter_map(|needle| needle.find_at(text, at)).for_each(&mut found);
        }
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[scrubber]")
    }
}

const SLOTS: usize = 1 << 16;

fn slot(first: [u8; NEEDLE_BYTES_MIN]) -> usize {
    (u32::from_le_bytes(first).wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// The same without the line breaks at its end.
fn trimmed(text: &str, Range { start, end }: Range<usize>) -> Range<usize> {
    start..start + text[start..end].trim_end_matches(['\r', '\n']).len()
}

/// Whether these bytes are part of a [`MARK`] that stands in the text already.
fn is_in_mark(text: &[u8], range: &Range<usize>) -> bool {
    let first = (range.end).saturating_sub(MARK.len());
    (first..=range.start).any(|at| text[at..].starts_with(MARK.as_bytes()))
}
