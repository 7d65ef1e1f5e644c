//! Points in time and lengths of time, and the text that people write for them.
//!
//! Nothing here reads a clock: the only source of "now" is the runtime that an engine was given.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: whole microseconds since 1970-01-01T00:00:00Z, as `chrono` counts them.
///
/// It is what the journal keeps, eight bytes a record. Converts from and to
/// [`chrono::DateTime<Utc>`], and is written as RFC 3339 text in documents.
///
/// ```
/// use std::time::Duration;
/// use stepwell::Timestamp;
///
/// let start: Timestamp = "2026-03-29T01:00:00Z".parse().unwrap();
/// let end = start + Duration::from_secs(90);
/// assert_eq!(end.to_string(), "2026-03-29T01:01:30Z");
/// assert_eq!(end.since(start), Duration::from_secs(90));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The end of the year 9999, which is later than every time that is ever due: the last that RFC
    /// 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999_999);
    /// The beginning of the year 0, the first that it can write.
    pub const MIN: Self = Self(-62_167_219_200_000_000);

    /// The point this many microseconds after the epoch (before it, when negative), not before
    /// [`MIN`](Self::MIN) and not after [`MAX`](Self::MAX).
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros > Self::MAX.0 {
            Self::MAX
        } else if micros < Self::MIN.0 {
            Self::MIN
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// This point as `chrono` writes it; times that `chrono` cannot hold become its last or first.
    #[must_use]
    pub fn to_datetime(self) -> DateTime<Utc> {
        let limit = if self.0 < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
        DateTime::from_timestamp_micros(self.0).unwrap_or(limit)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self::from_micros(at.timestamp_micros())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(at: Timestamp) -> Self {
        at.to_datetime()
    }
}

/// Saturates at [`Timestamp::MAX`]: a wait of a thousand years is "never", not an overflow.
impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }
}

/// Saturates at [`Timestamp::MIN`].
impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, length: Duration) -> Self {
        let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        DateTime::parse_from_rfc3339(text)
            .map(|at| at.with_timezone(&Utc).into())
            .map_err(|_| TimeError::Timestamp(clip(text)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not a time or a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("`{0}` is not a time; write it like 2026-03-29T01:00:00Z")]
    Timestamp(String),
    /// Not a length of time.
    #[error("`{0}` is not a length of time; write it like 90s, 5m, 1h30m, 250ms or 2d")]
    Duration(String),
    /// Longer than [`DURATION_MAX`].
    #[error("`{0}` is too long; the longest is 36500d")]
    TooLong(String),
}

/// The longest length of time that a document may name: a hundred years, which keeps every sum of
/// a real date and such a length inside what a timestamp can hold.
pub const DURATION_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// Reads a length of time: numbers with units `us`, `ms`, `s`, `m`, `h`, `d`, largest first or not, as in
/// `1h30m`; a bare number is seconds.
///
/// # Errors
/// [`TimeError`] for anything else, and for more than [`DURATION_MAX`].
///
/// ```
/// use std::time::Duration;
/// use stepwell::time::{format_duration, parse_duration};
///
/// assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
/// assert_eq!(parse_duration("2.5").unwrap(), Duration::from_millis(2500));
/// assert_eq!(format_duration(Duration::from_millis(90_250)), "1m30s250ms");
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let invalid = || TimeError::Duration(clip(text));
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" if digits == text.trim().len() => 1.0,
            "us" => 0.000_001,
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(invalid()),
        };
        rest = rest[letters..].trim_start();
        total += number * unit;
    }
    seconds(total).ok_or_else(|| TimeError::TooLong(clip(text)))
}

/// The shortest text that [`parse_duration`] reads back; lengths are kept to the microsecond.
#[must_use]
pub fn format_duration(length: Duration) -> String {
    let mut text = String::new();
    let mut seconds = length.as_secs();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if seconds >= size {
            text.push_str(&format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    let (millis, micros) = (length.subsec_millis(), length.subsec_micros() % 1000);
    if micros > 0 {
        text.push_str(&format!("{}us", length.subsec_micros()));
    } else if millis > 0 || text.is_empty() {
        text.push_str(&format!("{millis}ms"));
    }
    text
}

/// A length of time from seconds, if it is one and not over [`DURATION_MAX`].
fn seconds(seconds: f64) -> Option<Duration> {
    let length = Duration::try_from_secs_f64(seconds).ok()?;
    // Nearest, not next below: 0.1 s is a little less than that in binary.
    let micros = (length.as_nanos() + 500) / 1000;
    (length <= DURATION_MAX).then_some(Duration::from_micros(micros as u64))
}

/// A length of time as a schema says it: a text with units, or a number of seconds.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)] // Only its schema is used.
pub(crate) enum LengthOfTime {
    /// Such as `90s` or `1h30m`.
    Text(String),
    /// Seconds.
    Seconds(f64),
}

/// Errors quote what was given, but never a whole document.
fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `#[serde(with = "duration")]`: lengths of time as text; a number is read as seconds.
pub(crate) mod duration {
    use super::{Duration, format_duration, parse_duration};
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(crate) fn serialize<S: Serializer>(length: &Duration, s: S) -> Result<S::Ok, S::Error> {
        // What is written can be read; a hundred years is as good as for ever.
        s.serialize_str(&format_duration((*length).min(super::DURATION_MAX)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_any(Reader)
    }

    pub(super) struct Reader;

    impl de::Visitor<'_> for Reader {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a length of time like 90s or 1h30m, or a number of seconds")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
            self.visit_f64(number as f64)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
            self.visit_f64(number as f64)
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
            super::seconds(number).ok_or_else(|| {
                E::custom(format_args!("{number} is not a length of time in seconds"))
            })
        }
    }
}

/// `#[serde(with = "duration_option")]`: the same for an optional length.
pub(crate) mod duration_option {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        length: &Option<Duration>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match length {
            Some(length) => super::duration::serialize(length, s),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        struct Length(Duration);
        impl<'de> Deserialize<'de> for Length {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                super::duration::deserialize(d).map(Length)
            }
        }
        Ok(Option::<Length>::deserialize(d)?.map(|length| length.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_prints_as_text_that_reads_back() {
        for millis in [0_u64, 1, 999, 1_000, 61_500, 3_600_000, 90_061_001] {
            let length = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(length)), Ok(length), "{millis}");
        }
    }

    #[test]
    fn what_is_not_a_length_of_time_is_refused() {
        for text in ["", "h", "1x", "-5s", "1..2s", "5 m 3", "1e9d", "99999999999d", "∞"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn adding_for_ever_saturates() {
        assert_eq!(Timestamp::EPOCH + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
    }
}
