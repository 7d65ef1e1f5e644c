//! A text as it reads when its escapes are undone, with the way back to where each byte stood.
//!
//! Programs differ in what they escape: every path, query and form encoder keeps other characters,
//! and JSON has several ways to write most of them. Undoing the escapes finds them all.

use std::ops::Range;

use zeroize::Zeroizing;

use super::hex_digit;

/// Decoded bytes, and for each of them, and for the end, where it starts in the text.
pub(super) struct View {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    starts: Vec<usize>,
}

impl View {
    /// The text with `%20` and the like undone; nothing if there is no `%` in it.
    pub(super) fn percent(text: &str) -> Option<Self> {
        Self::decode(text, b"%", percent)
    }

    /// The text with `\n`, `\u0041` and the like undone; nothing if there is no `\` in it.
    pub(super) fn json(text: &str) -> Option<Self> {
        Self::decode(text, b"\\", json)
    }

    /// The text without line breaks, as base64 is often broken into lines; nothing if it has one line.
    pub(super) fn unwrapped(text: &str) -> Option<Self> {
        Self::decode(text, b"\r\n", |_, _| 1)
    }

    /// Where in the text these decoded bytes were written; the range must lie within `bytes`.
    pub(super) fn origin(&self, range: Range<usize>) -> Range<usize> {
        self.starts[range.start]..self.starts[range.end]
    }

    /// `undo` appends what the escape at the start of the bytes stands for, and says how many bytes it
    /// is written with; none if it is no escape.
    fn decode(text: &str, signs: &[u8], undo: fn(&[u8], &mut Vec<u8>) -> usize) -> Option<Self> {
        let text = text.as_bytes();
        if !text.iter().any(|byte| signs.contains(byte)) {
            return None;
        }
        // No escape is shorter than what it stands for, so these never grow: growing would leave
        // secrets behind in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut starts = Vec::with_capacity(text.len() + 1);
        let mut here = 0;
        while let Some(&byte) = text.get(here) {
            let taken = if signs.contains(&byte) { undo(&text[here..], &mut bytes) } else { 0 };
            if taken == 0 {
                bytes.push(byte);
            }
            starts.resize(bytes.len(), here);
            here += taken.max(1);
        }
        starts.push(here);
        Some(Self { bytes, starts })
    }
}

fn percent(text: &[u8], bytes: &mut Vec<u8>) -> usize {
    let digit = |at| text.get(at).copied().and_then(hex_digit);
    let Some((high, low)) = digit(1).zip(digit(2)) else { return 0 };
    bytes.push(high << 4 | low);
    3
}

fn json(text: &[u8], bytes: &mut Vec<u8>) -> usize {
    let read = match text.get(1) {
        Some(&same @ (b'"' | b'\\' | b'/')) => same,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'b') => 0x08,
        Some(b'f') => 0x0c,
        Some(b'u') => return unicode(text, bytes),
        _ => return 0,
    };
    bytes.push(read);
    2
}

fn unicode(text: &[u8], bytes: &mut Vec<u8>) -> usize {
    let units = [unit(text), text.get(6..).and_then(unit)];
    // A pair of surrogates takes both; of anything else only the first is read.
    let Some(Ok(read)) = char::decode_utf16(units.into_iter().map_while(|unit| unit)).next() else {
        return 0;
    };
    bytes.extend_from_slice(read.encode_utf8(&mut [0; 4]).as_bytes());
    6 * read.len_utf16()
}

/// The number in `\u0041`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | u16::from(hex_digit(digit)?)))
}
