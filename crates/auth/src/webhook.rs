//! GitHub's webhook signature: `X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the raw body>` (GitHub docs, "Validating
//! webhook deliveries").

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Why a delivery is not GitHub's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is not `sha256=` and 64 hexadecimal digits.
    #[error("the signature is not sha256= and 64 hexadecimal digits")]
    Malformed,
    /// None of the secrets made it.
    #[error("the signature does not match the body")]
    Mismatch,
}

/// Verifies a body against each accepted secret (two, during a rotation), in constant time.
pub fn verify(secrets: &[SecretString], body: &[u8], header: &str) -> Result<(), SignatureError> {
    verify_parts(secrets, &std::iter::once(body), header)
}

/// As [`verify`], of a body in parts.
pub fn verify_parts<'b>(
    secrets: &[SecretString],
    body: &(impl Iterator<Item = &'b [u8]> + Clone),
    header: &str,
) -> Result<(), SignatureError> {
    let digits = header
        .strip_prefix("sha256=")
        .ok_or(SignatureError::Malformed)?;
    let given = hex::decode(digits).map_err(|_| SignatureError::Malformed)?;
    if given.len() != 32 {
        return Err(SignatureError::Malformed);
    }
    for secret in secrets {
        // An HMAC key may have any length, so this cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else {
            continue;
        };
        for part in body.clone() {
            mac.update(part);
        }
        if mac.verify_slice(&given).is_ok() {
            return Ok(());
        }
    }
    Err(SignatureError::Mismatch)
}

/// Signs a body as GitHub does; for simulators and tests.
pub fn sign(secret: &SecretString, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else {
        return String::new();
    };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[test]
    fn the_published_example_verifies() {
        // GitHub docs, "Validating webhook deliveries", testing the validation.
        let header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let secrets = [secret("other"), secret("It's a Secret to Everybody")];
        assert_eq!(verify(&secrets, b"Hello, World!", header), Ok(()));
        assert_eq!(
            verify(&secrets, b"Hello, World?", header),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(
            verify(&secrets[..1], b"Hello, World!", header),
            Err(SignatureError::Mismatch)
        );
    }

    #[test]
    fn malformed_headers_are_told_apart() {
        for header in [
            "",
            "sha1=00",
            "sha256=",
            "sha256=zz",
            "sha256=00",
            "757107ea",
        ] {
            assert_eq!(
                verify(&[secret("s")], b"", header),
                Err(SignatureError::Malformed),
                "{header}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_we_sign_verifies_and_nothing_else(body in proptest::collection::vec(any::<u8>(), 0..200), flip in 0usize..200) {
            let header = sign(&secret("s"), &body);
            prop_assert_eq!(verify(&[secret("s")], &body, &header), Ok(()));
            let mut other = body.clone();
            if let Some(byte) = other.get_mut(flip) {
                *byte ^= 1;
                prop_assert_eq!(verify(&[secret("s")], &other, &header), Err(SignatureError::Mismatch));
            }
        }
    }
}
