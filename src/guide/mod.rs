//! The guide, as chapters.

#[doc = include_str!("approvals.md")]
pub mod approvals {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("conditions.md")]
pub mod conditions {}

#[doc = include_str!("data.md")]
pub mod data {}

#[doc = include_str!("durability.md")]
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub mod durability {}

#[doc = include_str!("failure.md")]
pub mod failure {}

#[doc = include_str!("flow.md")]
pub mod flow {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("patterns.md")]
pub mod patterns {}

#[doc = include_str!("runtimes.md")]
pub mod runtimes {}

#[doc = include_str!("speed.md")]
pub mod speed {}

#[doc = include_str!("testing.md")]
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing {}

#[doc = include_str!("versions.md")]
pub mod versions {}

#[doc = include_str!("workflows.md")]
pub mod workflows {}
