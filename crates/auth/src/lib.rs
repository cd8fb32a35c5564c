#![doc = include_str!("../README.md")]

pub mod keys;
pub mod token;
pub mod webhook;

pub use keys::{KeyFolder, KeySet, KeysError};
pub use token::{Claims, Signer, SigningKey, TokenError, verify};
