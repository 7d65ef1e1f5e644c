//! Secrets, and the keys that they are sealed with.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::hex_digit;

/// A text that nobody is to see.
///
/// It prints as `[secret]`, cannot be serialised, and its memory is overwritten when it is dropped.
///
/// ```
/// use stepwell::secret::Secret;
///
/// let token = Secret::new("hunter2");
/// assert_eq!(format!("{token:?}"), "[secret]");
/// assert_eq!(token.expose(), "hunter2");
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret with this text. A `String` is taken over as it is, without a copy.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one call that needs it. Copies that you make of it are yours to erase.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A key to seal values with: 32 bytes, which should come from a random number generator, never from
/// a password.
///
/// It prints as `[key]`, and its memory is overwritten when it is dropped.
///
/// ```
/// use stepwell::secret::Key;
///
/// // As `openssl rand -hex 32` or `openssl rand -base64 32` prints it.
/// let key = Key::from_hex("6f3c9a51d0e84b27a1c5f09e8b7d6432fe10cdab5678349012ef43dc65ba7890")?;
/// assert_eq!(format!("{key:?}"), "[key]");
/// assert!(Key::from_base64("bzyaUdDo").is_err());
/// # Ok::<(), stepwell::secret::KeyError>(())
/// ```
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A key of these bytes. Arrays are copied: the one that you hold is yours to erase.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A key from 64 hexadecimal digits; white space around them is ignored.
    ///
    /// # Errors
    /// [`KeyError`], which says what is wrong without repeating the text.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let (pairs, odd) = text.trim().as_bytes().as_chunks::<2>();
        let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
        for &[high, low] in pairs {
            let digits = hex_digit(high).zip(hex_digit(low));
            bytes.push(digits.map(|(high, low)| high << 4 | low).ok_or(KeyError::NotHex)?);
        }
        if odd.is_empty() { Self::from_slice(&bytes) } else { Err(KeyError::NotHex) }
    }

    /// A key from base64: the standard or the URL-safe alphabet, with or without `=` at the end;
    /// white space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`], which says what is wrong without repeating the text.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().trim_end_matches('=');
        let coding = if text.contains(['-', '_']) { URL_SAFE_NO_PAD } else { STANDARD_NO_PAD };
        // Not `decode`, which would leave what it had read so far in memory when it fails.
        let mut bytes = Zeroizing::new(vec![0; text.len() + 3]);
        let length = coding.decode_slice(text, &mut bytes).map_err(|_| KeyError::NotBase64)?;
        bytes.truncate(length);
        Self::from_slice(&bytes)
    }

    fn from_slice(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes.try_into().map(Self::from_bytes).map_err(|_| KeyError::Length(bytes.len()))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// A text that is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Something else than pairs of hexadecimal digits.
    #[error("the key is not hexadecimal; write 64 digits, as `openssl rand -hex 32` prints them")]
    NotHex,
    /// Not base64.
    #[error("the key is not base64; write it as `openssl rand -base64 32` prints one")]
    NotBase64,
    /// So many bytes instead of 32.
    #[error("the key has {0} bytes; it must have 32, such as `openssl rand` makes with `-hex 32`")]
    Length(usize),
}

/// Where keys come from: a key management service, the environment, a file.
///
/// # Contract
/// * A key id is 1 to [`KEY_ID_CHARS_MAX`](super::KEY_ID_CHARS_MAX) printable ASCII characters
///   without `.`. It is stored in clear beside each sealed value.
/// * One id stands for one key for ever; a new key gets a new id.
/// * A key is given for as long as anything is stored that was sealed with it.
/// * Both methods answer from memory. They are called while a run waits.
/// * `Debug` shows no key; [`Key`] sees to that if you derive it.
pub trait KeyProvider: Send + Sync + fmt::Debug + 'static {
    /// The id of the key that new values are sealed with.
    fn current(&self) -> String;

    /// The key with this id, or nothing if it is not known (any more). The id may have been
    /// read from a store, so it can be any text.
    fn key(&self, id: &str) -> Option<Key>;
}

/// A [`KeyProvider`] that holds its keys in memory.
///
/// ```
/// use stepwell::secret::{Key, KeyProvider, Keyring};
///
/// let keys = Keyring::new("2026-11", Key::from_bytes([2; 32]))
///     .and("2026-05", Key::from_bytes([1; 32]));
/// assert_eq!(keys.current(), "2026-11");
/// assert!(keys.key("2026-05").is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Keyring {
    current: String,
    keys: BTreeMap<String, Key>,
}

impl Keyring {
    /// A ring whose current key is this one.
    pub fn new(id: impl Into<String>, key: Key) -> Self {
        let current = id.into();
        Self { keys: BTreeMap::from([(current.clone(), key)]), current }
    }

    /// The same, with an older key that values may still be sealed with. An id that the ring has
    /// already keeps its key.
    #[must_use]
    pub fn and(mut self, id: impl Into<String>, key: Key) -> Self {
        self.keys.entry(id.into()).or_insert(key);
        self
    }
}

impl KeyProvider for Keyring {
    fn current(&self) -> String {
        self.current.clone()
    }

    fn key(&self, id: &str) -> Option<Key> {
        self.keys.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_hex_and_every_kind_of_base64() {
        let bytes = [251_u8; 32];
        let (hex, standard) = ("fB".repeat(32), "+/v7".repeat(10) + "+/s=");
        let url = standard.replace('+', "-").replace('/', "_");
        assert_eq!(Key::from_hex(&format!(" {hex}\n")).unwrap().bytes(), &bytes);
        for text in [&*standard, &url, standard.trim_end_matches('='), &format!("{url}\n")] {
            assert_eq!(Key::from_base64(text).unwrap().bytes(), &bytes, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        assert_eq!(Key::from_hex("abc").unwrap_err(), KeyError::NotHex);
        assert_eq!(Key::from_hex("é€").unwrap_err(), KeyError::NotHex);
        assert_eq!(Key::from_hex("abcd").unwrap_err(), KeyError::Length(2));
        assert_eq!(Key::from_hex("").unwrap_err(), KeyError::Length(0));
        assert_eq!(Key::from_hex(&"ab".repeat(33)).unwrap_err(), KeyError::Length(33));
        assert_eq!(Key::from_base64("").unwrap_err(), KeyError::Length(0));
        assert_eq!(Key::from_base64("====").unwrap_err(), KeyError::Length(0));
        assert_eq!(Key::from_base64(&"AA".repeat(33)).unwrap_err(), KeyError::Length(49));
        for text in ["a", "a-b+", "$$$$", "kéy", "hunter2hunter2!"] {
            let error = Key::from_base64(text).unwrap_err();
            assert_eq!(error, KeyError::NotBase64);
            assert!(text.len() < 2 || !format!("{error} {error:?}").contains(text));
        }
    }
}
