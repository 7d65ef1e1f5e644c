//! So many, or so many percent.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A part of a number of things: a count, or a percentage such as `"60%"`.
///
/// ```
/// use stepwell::workflow::Amount;
///
/// assert_eq!(Amount::Count(2).at_least(5), 2);
/// assert_eq!(Amount::Percent(50).at_least(5), 3); // what is needed is rounded up
/// assert_eq!(Amount::Percent(50).at_most(5), 2); // what is tolerated is rounded down
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// This many.
    Count(u32),
    /// This many in a hundred.
    Percent(u8),
}

impl Amount {
    /// How many of `total` are needed to reach it.
    #[must_use]
    pub const fn at_least(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (total as u64 * percent as u64).div_ceil(100) as u32,
        }
    }

    /// How many of `total` do not go over it.
    #[must_use]
    pub const fn at_most(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (total as u64 * percent as u64 / 100) as u32,
        }
    }

    /// Whether it is nothing, or more than everything.
    pub(super) const fn problem(self) -> Option<&'static str> {
        match self {
            Self::Count(0) | Self::Percent(0) => Some("nothing is needed: 0 is always reached"),
            Self::Percent(101..) => Some("more than 100% cannot be reached"),
            Self::Count(_) | Self::Percent(_) => None,
        }
    }
}

impl From<u32> for Amount {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text:.20}` is no amount; write 3, or \"60%\"");
        match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse().map(Self::Percent).map_err(|_| wrong()),
            None => text.trim().parse().map(Self::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a percentage such as \"60%\"")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Amount, E> {
                u32::try_from(count).map(Amount::Count).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Amount, E> {
                u32::try_from(count).map(Amount::Count).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]{1,3}%$"},
        ]})
    }
}
