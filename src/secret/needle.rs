//! What to look for: the forms in which a secret may appear.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

/// Fewest bytes of a needle: [`Scrubber`](super::Scrubber) finds needles by their first four.
pub(super) const NEEDLE_BYTES_MIN: usize = 4;

/// Bytes to look for, and what to remove around them.
#[derive(PartialEq, Eq)]
pub(super) struct Needle {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The base64 digit before them holds bits of the secret too.
    before: bool,
    /// The base64 digit behind them does.
    behind: bool,
}

impl Needle {
    fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: Zeroizing::new(bytes.into()), before: false, behind: false }
    }

    /// An order in which needles with the same first bytes stand together.
    pub(super) fn order(&self) -> (&[u8], bool, bool) {
        (&self.bytes, self.before, self.behind)
    }

    /// What to remove if the needle is at this place of the text.
    pub(super) fn find_at(&self, text: &[u8], start: usize) -> Option<Range<usize>> {
        if !text.get(start..)?.starts_with(&self.bytes) {
            return None;
        }
        let (before, mut behind) = text.split_at(start + self.bytes.len());
        let more_before = self.before && before[..start].last().is_some_and(is_base64);
        if self.behind && behind.first().is_some_and(is_base64) {
            behind = &behind[1..];
            while let Some(rest) = behind.strip_prefix(b"=") {
                behind = rest;
            }
        }
        Some(start - usize::from(more_before)..text.len() - behind.len())
    }
}

/// Every form of a text that is looked for. Percent and JSON escapes are undone before the search.
pub(super) fn forms(text: &str) -> Vec<Needle> {
    let mut found = vec![Needle::plain(text)];
    if text.contains(' ') {
        // As HTML forms write it.
        found.push(Needle::plain(text.replace(' ', "+")));
    }
    found.push(Needle::plain(hex(text, b"0123456789abcdef")));
    found.push(Needle::plain(hex(text, b"0123456789ABCDEF")));
    for shift in 0..3 {
        found.push(base64(text, shift, |bytes| STANDARD.encode(bytes)));
        found.push(base64(text, shift, |bytes| URL_SAFE.encode(bytes)));
    }
    found.retain(|needle| needle.bytes.len() >= NEEDLE_BYTES_MIN);
    found
}

fn hex(text: &str, digits: &[u8; 16]) -> Vec<u8> {
    let pair = |byte: u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
    let mut hex = Vec::with_capacity(2 * text.len());
    text.bytes().for_each(|byte| hex.extend_from_slice(&pair(byte)));
    hex
}

/// The base64 digits that a text gives whatever is encoded around it, if it starts so many bytes
/// behind a multiple of three.
fn base64(text: &str, shift: usize, encode: impl Fn(&[u8]) -> String) -> Needle {
    let mut shifted = Zeroizing::new(Vec::with_capacity(shift + text.len()));
    shifted.resize(shift, 0);
    shifted.extend_from_slice(text.as_bytes());
    let digits = Zeroizing::new(encode(&shifted));
    let (first_bit, end_bit) = (8 * shift, 8 * shifted.len());
    let whole = digits.get(first_bit.div_ceil(6)..end_bit / 6).unwrap_or_default();
    let (before, behind) = (first_bit % 6 != 0, end_bit % 6 != 0);
    Needle { before, behind, ..Needle::plain(whole) }
}

/// Whether this is a digit of base64 in either alphabet.
fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_".contains(byte)
}
