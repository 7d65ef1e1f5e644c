//! Secrets: texts that a run needs and nobody is to read.
//!
//! What a run is started with is stored, and so is what its steps return. A [`Secret`] is stored only
//! sealed: encrypted and authenticated (XChaCha20-Poly1305) with a key that a [`KeyProvider`] of
//! yours gives, and bound to its run and its name, so that it opens nowhere else. In JSON a sealed
//! value is an object with the single field `$sealed`.
//!
//! Keys change without losing anything: new values are sealed with the current key, and what is
//! sealed with an older one opens for as long as the provider gives that one too.
//!
//! An opened secret is also looked for in what is about to be stored, and replaced by `[secret]`. It
//! is found as it is, as JSON or percent-encoded text, in base64 and in hexadecimal; of a secret of
//! several lines each line of 8 characters or more is found too. This catches accidents. It cannot
//! catch a step that takes a secret apart, and it does not look for secrets of fewer than 4
//! characters, which stand everywhere by chance.
//!
//! Nothing here reads a clock, a file or a source of randomness: keys and nonces come in as arguments.
//!
//! ```
//! use stepwell::secret::{Key, Keyring, Secret};
//!
//! let new = Key::from_hex(&"4f".repeat(32))?;
//! let old = Key::from_bytes([7; 32]);
//! let keys = Keyring::new("2026-11", new).and("2026-05", old);
//! assert!(!format!("{keys:?}").contains("4f4f"));
//!
//! let token = Secret::new("hunter2");
//! assert_eq!(format!("{token:?}"), "[secret]");
//! assert_eq!(token.expose(), "hunter2");
//! # Ok::<(), stepwell::secret::KeyError>(())
//! ```

mod keys;
mod needle;
mod scrub;
mod seal;
mod view;

#[cfg(test)]
mod scrub_tests;
#[cfg(test)]
mod seal_tests;

pub use keys::{Key, KeyError, KeyProvider, Keyring, Secret};
pub(crate) use scrub::Scrubber;
pub use seal::{KEY_ID_CHARS_MAX, Place, SECRET_BYTES_MAX, SecretError};
pub(crate) use seal::{open, reseal, seal, sealed_texts};

/// The value of a hexadecimal digit.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
