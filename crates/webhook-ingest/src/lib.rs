#![doc = include_str!("../README.md")]

mod application;
mod convert;
mod delivery;
mod encoding;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod refusal;
pub mod settings;

pub use application::Application;
pub use delivery::openapi;
pub use settings::Settings;
