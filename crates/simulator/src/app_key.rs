//! The App's RSA key: the public half from either half, and a new one for tests and demos.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use jsonwebtoken::DecodingKey;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::settings::AppKey;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum AppKeyError {
    /// It is neither a public nor a private RSA key in PEM.
    #[error("not an RSA key in PEM")]
    NotRsaPem,
    /// No new one could be made.
    #[error("no RSA key could be made")]
    NotMade,
}

impl AppKey {
    /// From a public (SPKI, PKCS#1) or private (PKCS#8, PKCS#1) RSA key in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AppKeyError> {
        let refuse = |_| AppKeyError::NotRsaPem;
        let private = match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Pkcs8(der)) => {
                KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(refuse)?
            }
            Ok(PrivateKeyDer::Pkcs1(der)) => {
                KeyPair::from_der(der.secret_pkcs1_der()).map_err(refuse)?
            }
            _ => {
                let key = DecodingKey::from_rsa_pem(pem).map_err(|_| AppKeyError::NotRsaPem)?;
                return Ok(Self(key));
            }
        };
        let public = PublicKeyComponents::<Vec<u8>>::from(private.public_key());
        Ok(Self(DecodingKey::from_rsa_raw_components(
            &public.n, &public.e,
        )))
    }

    /// A new private key in PEM (PKCS#8), for tests and demos.
    pub fn generate_private_pem() -> Result<String, AppKeyError> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| AppKeyError::NotMade)?;
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).map_err(|_| AppKeyError::NotMade)?;
        let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (position, digit) in body.chars().enumerate() {
            pem.push(digit);
            if position % 64 == 63 {
                pem.push('\n');
            }
        }
        if !pem.ends_with('\n') {
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
    }
}
