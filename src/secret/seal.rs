//! Sealing: a secret becomes an envelope that only its key, its run and its name open.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use serde_json::json;
use zeroize::Zeroize;

use super::keys::{Key, KeyProvider, Secret};
use crate::value::{Json, SEALED};

/// Longest id of a key, in characters: it stands in every sealed value.
pub const KEY_ID_CHARS_MAX: usize = 64;

/// Longest secret, in bytes: room for a chain of certificates. What is larger is data, and belongs
/// into a store of its own with its key as the secret.
pub const SECRET_BYTES_MAX: usize = 65_536;

const VERSION: &str = "v1";

/// For which run and under which name a value is sealed.
///
/// Both are authenticated: a sealed value that is moved to another run or another name does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The id of the run.
    pub run: &'a str,
    /// The name of the secret in the run; stored in clear.
    pub name: &'a str,
}

/// Why a value cannot be sealed or opened. No message holds plain or cipher text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The key provider has no key with this id.
    #[error("there is no key `{0}`; give the provider every key that values are still sealed with")]
    UnknownKey(String),
    /// The id of the current key cannot be a key id. It is not repeated: it may be a key by mistake.
    #[error(
        "the key provider's current key has an id that cannot be one; \
         use 1 to {KEY_ID_CHARS_MAX} printable ASCII characters without `.`"
    )]
    BadKeyId,
    /// The secret has so many bytes, more than [`SECRET_BYTES_MAX`].
    #[error(
        "the secret has {0} bytes, and at most {SECRET_BYTES_MAX} can be sealed; \
         encrypt the data elsewhere and seal the key to it"
    )]
    TooLong(usize),
    /// The value is no sealed one.
    #[error("the value is not sealed; a sealed value is an object with the one field `$sealed`")]
    NotSealed,
    /// What stands in `$sealed` is not what this version of the crate writes.
    #[error(
        "the sealed value is damaged, or a newer version of this crate wrote it; \
         update, or seal the secret again"
    )]
    Malformed,
    /// It was changed, or sealed for another run or name, or with another key of that id.
    #[error(
        "the sealed value does not open: it was changed, or comes from another run or name, \
         or its key's id stands for another key now; seal the secret again for this run"
    )]
    Refused,
}

/// Seals a secret with the current key. No nonce may be used twice; random ones are safe.
///
/// # Errors
/// [`SecretError`], when there is no current key or the secret is too long.
pub(crate) fn seal(
    keys: &dyn KeyProvider,
    nonce: [u8; 24],
    place: Place<'_>,
    plain: &Secret,
) -> Result<Json, SecretError> {
    Ok(json!({ SEALED: seal_text(keys, nonce, place, plain)? }))
}

/// Opens a sealed value of this run.
///
/// # Errors
/// [`SecretError`], when it is not one, its key is not known, or it was changed or moved.
pub(crate) fn open(
    keys: &dyn KeyProvider,
    run: &str,
    sealed: &Json,
) -> Result<Secret, SecretError> {
    Envelope::parse(text_of(sealed).ok_or(SecretError::NotSealed)?)?.open(keys, run)
}

/// What stands in `$sealed`, sealed again under the same name with the current key; nothing when it is
/// sealed with that key already.
///
/// # Errors
/// Those of [`seal`] and [`open`].
pub(crate) fn reseal(
    keys: &dyn KeyProvider,
    nonce: [u8; 24],
    run: &str,
    sealed: &str,
) -> Result<Option<String>, SecretError> {
    let envelope = Envelope::parse(sealed)?;
    if envelope.id == keys.current() {
        return Ok(None);
    }
    let name = envelope.name.clone();
    let plain = envelope.open(keys, run)?;
    seal_text(keys, nonce, Place { run, name: &name }, &plain).map(Some)
}

/// Every distinct text of a sealed value inside this one, in order of the texts.
pub(crate) fn sealed_texts(value: &Json) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match (text_of(value), value) {
            (Some(text), _) => drop(found.insert(text)),
            (None, Json::Array(items)) => left.extend(items),
            (None, Json::Object(fields)) => left.extend(fields.values()),
            (None, Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_)) => {}
        }
    }
    found.into_iter().map(str::to_owned).collect()
}

/// Whether this is a sealed value of the right form.
pub(super) fn is_envelope(value: &Json) -> bool {
    text_of(value).is_some_and(|text| Envelope::parse(text).is_ok())
}

fn text_of(value: &Json) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.get(SEALED)?.as_str()
}

fn seal_text(
    keys: &dyn KeyProvider,
    nonce: [u8; 24],
    place: Place<'_>,
    plain: &Secret,
) -> Result<String, SecretError> {
    let id = keys.current();
    if !is_key_id(&id) {
        return Err(SecretError::BadKeyId);
    }
    let plain = plain.expose();
    let too_long = || SecretError::TooLong(plain.len());
    if plain.len() > SECRET_BYTES_MAX {
        return Err(too_long());
    }
    let cipher = cipher(keys, &id)?;
    let mut sealed = plain.as_bytes().to_vec();
    let bound = bound(&id, place);
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &bound, sealed.as_mut_slice().into());
    // It fails only above 256 GiB, which leaves the buffer as it was.
    let tag = tag.inspect_err(|_| sealed.zeroize()).map_err(|_| too_long())?;
    sealed.extend_from_slice(&tag);
    let [name, nonce, sealed] = [place.name.as_bytes(), &nonce, &sealed].map(|b| BASE64.encode(b));
    Ok([VERSION, &id, &name, &nonce, &sealed].join("."))
}

/// The parts of a sealed text.
struct Envelope<'a> {
    id: &'a str,
    name: String,
    nonce: [u8; 24],
    sealed: Vec<u8>,
    tag: [u8; 16],
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Self, SecretError> {
        Self::read(text).ok_or(SecretError::Malformed)
    }

    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let [version, id, name, nonce, sealed] = std::array::from_fn(|_| parts.next());
        if version? != VERSION || parts.next().is_some() {
            return None;
        }
        let decode = |part: Option<&str>| BASE64.decode(part?).ok();
        let (mut sealed, tag) = decode(sealed).and_then(|bytes| {
            let tag = *bytes.last_chunk()?;
            Some((bytes, tag))
        })?;
        sealed.truncate(sealed.len() - tag.len());
        Some(Self {
            id: id.filter(|id| is_key_id(id))?,
            name: String::from_utf8(decode(name)?).ok()?,
            nonce: decode(nonce)?.try_into().ok()?,
            sealed,
            tag,
        })
    }

    fn open(self, keys: &dyn KeyProvider, run: &str) -> Result<Secret, SecretError> {
        let cipher = cipher(keys, self.id)?;
        let bound = bound(self.id, Place { run, name: &self.name });
        let mut plain = self.sealed;
        let buffer = plain.as_mut_slice().into();
        cipher
            .decrypt_inout_detached(&self.nonce.into(), &bound, buffer, &self.tag.into())
            .map_err(|_| SecretError::Refused)?;
        String::from_utf8(plain).map(Secret::new).map_err(|error| {
            error.into_bytes().zeroize();
            SecretError::Malformed
        })
    }
}

fn is_key_id(id: &str) -> bool {
    let chars = id.bytes().all(|c| matches!(c, b' '..=b'~') && c != b'.');
    chars && (1..=KEY_ID_CHARS_MAX).contains(&id.len())
}

fn cipher(keys: &dyn KeyProvider, id: &str) -> Result<XChaCha20Poly1305, SecretError> {
    let key: Key = keys.key(id).ok_or_else(|| SecretError::UnknownKey(id.to_owned()))?;
    Ok(XChaCha20Poly1305::new(key.bytes().into()))
}

/// What is authenticated beside the secret. Lengths stand before the texts, so that no other run and
/// name give the same bytes.
fn bound(id: &str, place: Place<'_>) -> Vec<u8> {
    let mut bytes = b"stepwell sealed value".to_vec();
    for text in [VERSION, id, place.run, place.name] {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
