//! Launch tokens, and the assertions of calls to the agent: JWT signed with EdDSA. The algorithm is fixed by the key, never by the header.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{ASSERTION_LIFETIME_S, CallClaims};
use gha_slurm_contract::mapping::{USER_ASSERTION_LIFETIME_S, UserClaims};
use gha_slurm_contract::outbound::{AGENT_ASSERTION_LIFETIME_S, AgentClaims};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keys::{KeyFolder, KeySet, KeysError};

/// Clocks of services (not of nodes: `nbf` allows for those) may differ by this.
const LEEWAY_S: u64 = 5;

/// How long before `iat` a token is valid: nodes' clocks are up to two minutes behind.
pub const NOT_BEFORE_S: i64 = 120;

/// How long a token is valid: GitHub fails what is queued for more than 24 h, and an hour on top.
pub const DEFAULT_LIFETIME_S: i64 = 25 * 60 * 60;

/// Longest that `keys.lifetime_s` of the launcher may be: the agent remembers each launch for a week longer than its token is valid.
pub const LONGEST_LIFETIME_S: i64 = 7 * 24 * 60 * 60;

/// What every kind of token says of itself.
pub trait Claims: DeserializeOwned {
    /// Longest time in seconds between its issue and its end.
    const LONGEST_S: i64;

    /// `iat`.
    fn issued_at(&self) -> i64;

    /// `exp`.
    fn expires_at(&self) -> i64;
}

macro_rules! claims {
    ($($claims:ty: $longest_s:expr),+ $(,)?) => {$(
        impl Claims for $claims {
            const LONGEST_S: i64 = $longest_s;

            fn issued_at(&self) -> i64 {
                self.iat
            }

            fn expires_at(&self) -> i64 {
                self.exp
            }
        }
    )+};
}

claims! {
    LaunchClaims: LONGEST_LIFETIME_S,
    CallClaims: ASSERTION_LIFETIME_S,
    AgentClaims: AGENT_ASSERTION_LIFETIME_S,
    UserClaims: USER_ASSERTION_LIFETIME_S,
}

/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The newest key may change: the folder is read again after this.
const REREAD: Duration = Duration::from_secs(2);

/// Signs launch tokens with the newest key of a folder: one that was made or removed counts two seconds later.
pub struct Signer {
    folder: KeyFolder,
    newest: RwLock<Arc<SigningKey>>,
}

/// A private key of a folder.
pub struct SigningKey {
    kid: String,
    key: EncodingKey,
    read_at: Instant,
}

impl SigningKey {
    /// Reads the newest key. Blocks.
    pub fn read(folder: &KeyFolder) -> Result<Self, KeysError> {
        let (kid, pem) = folder.newest()?;
        let key = EncodingKey::from_ed_pem(pem.as_bytes())
            .map_err(|_| KeysError::NotAKey(format!("{kid}.key.pem")))?;
        Ok(Self {
            kid,
            key,
            read_at: Instant::now(),
        })
    }

    /// Its id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs claims.
    pub fn sign(&self, claims: &impl Serialize) -> Result<SecretString, TokenError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key)
            .map(SecretString::from)
            .map_err(|_| TokenError::Malformed)
    }
}

impl Signer {
    /// Loads the newest key.
    pub fn load(folder: &KeyFolder) -> Result<Self, KeysError> {
        Ok(Self {
            newest: RwLock::new(Arc::new(SigningKey::read(folder)?)),
            folder: folder.clone(),
        })
    }

    /// Signs the claims of a launch token, or of a call to the agent. Fails where the newest key cannot be read any more: what signed
    /// before may be revoked.
    pub async fn sign(&self, claims: &impl Serialize) -> Result<SecretString, TokenError> {
        self.newest().await?.sign(claims)
    }

    async fn newest(&self) -> Result<Arc<SigningKey>, TokenError> {
        let held = Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner));
        if held.read_at.elapsed() < REREAD {
            return Ok(held);
        }
        // The folder may be on a file system that hangs.
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || SigningKey::read(&folder)).await;
        let read = read
            .map_err(|e| TokenError::NoKey(e.to_string()))?
            .map_err(|e| TokenError::NoKey(e.to_string()))?;
        let read = Arc::new(read);
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&read);
        Ok(read)
    }
}

/// Why a launch token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a launch token at all.
    #[error("this is not a launch token")]
    Malformed,
    /// A key we do not know signed it, or an algorithm we do not use.
    #[error("the launch token is signed with an unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the launch token's signature is wrong")]
    BadSignature,
    /// Its time is over.
    #[error("the launch token has expired")]
    Expired,
    /// Its time has not come: a clock is wrong.
    #[error("the launch token is not valid yet: check the clocks")]
    NotYetValid,
    /// It is valid for longer than tokens of its kind are.
    #[error("the token is valid for more than {0} s after its issue")]
    TooLong(i64),
    /// It is meant for somebody else.
    #[error("the launch token is meant for another audience or comes from another issuer")]
    WrongParty,
    /// The key that signs cannot be read.
    #[error("{0}")]
    NoKey(String),
    /// A claim is missing.
    #[error("the launch token lacks a claim: {0}")]
    MissingClaim(String),
}

/// Verifies a token with claims `T`: signature by a known key, issuer, audience, times, and every claim present. A stolen key must
/// not make tokens that outlive it, so a token's lifetime is bounded, too.
pub fn verify<T: Claims>(
    token: &str,
    keys: &KeySet,
    audience: &str,
    issuer: &str,
) -> Result<T, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    let key = header
        .kid
        .as_deref()
        .and_then(|kid| keys.decoding_key(kid))
        .ok_or(TokenError::UnknownKey)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&[audience]);
    validation.set_issuer(&[issuer]);
    // `set_audience` alone accepts a token without `aud`.
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    let data = jsonwebtoken::decode::<T>(token, &key, &validation).map_err(|e| match e.kind() {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::UnknownKey,
        ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => TokenError::WrongParty,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::MissingClaim(claim.clone()),
        ErrorKind::Json(e) if e.to_string().starts_with("missing field") => {
            TokenError::MissingClaim(e.to_string())
        }
        _ => TokenError::Malformed,
    })?;
    // The clock that `exp` and `nbf` were compared with.
    let now_s = jsonwebtoken::get_current_timestamp();
    check_lifetime(&data.claims, i64::try_from(now_s).unwrap_or(i64::MAX))?;
    Ok(data.claims)
}

/// `now_s`: seconds since the epoch.
fn check_lifetime<T: Claims>(claims: &T, now_s: i64) -> Result<(), TokenError> {
    if claims.issued_at() > now_s.saturating_add(NOT_BEFORE_S) {
        return Err(TokenError::NotYetValid);
    }
    let lifetime_s = claims.expires_at().saturating_sub(claims.issued_at());
    if lifetime_s > T::LONGEST_S {
        return Err(TokenError::TooLong(T::LONGEST_S));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER};
    use gha_slurm_contract::runner::RunnerMode;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    const ISSUER: &str = "test-deployment";

    fn claims() -> LaunchClaims {
        let iat = chrono::Utc::now().timestamp();
        LaunchClaims {
            iss: ISSUER.into(),
            aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
            sub: "0192f0c1-2345-7000-8123-456789abcdef".parse().unwrap(),
            jti: uuid::Uuid::nil(),
            iat,
            nbf: iat - NOT_BEFORE_S,
            exp: iat + DEFAULT_LIFETIME_S,
            runner_name: "r".into(),
            cluster: "main".into(),
            // Not in those of earlier versions.
            launcher: None,
            token_url: "https://broker.example".into(),
            owner: "acme".into(),
            repository_name: "widgets".into(),
            repository_url: "https://github.com/acme/widgets".into(),
            repository_id: 1,
            labels: "self-hosted,slurm".into(),
            workflow_id: 7,
            slurm_user: "alice".parse().unwrap(),
            resources: gha_slurm_domain::ResourceRequest::default(),
            runner_mode: RunnerMode::Jit,
        }
    }

    fn keys() -> (tempfile::TempDir, KeyFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(dir.path().join("keys"));
        folder.generate(1).unwrap();
        (dir, folder)
    }

    fn signed(folder: &KeyFolder, change: impl FnOnce(&mut Value)) -> String {
        let (kid, pem) = folder.newest().unwrap();
        let mut value = serde_json::to_value(claims()).unwrap();
        change(&mut value);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid);
        jsonwebtoken::encode(
            &header,
            &value,
            &EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(),
        )
        .unwrap()
    }

    fn check(token: &str, folder: &KeyFolder) -> Result<LaunchClaims, TokenError> {
        verify(token, &folder.key_set().unwrap(), AUDIENCE_AGENT, ISSUER)
    }

    #[test]
    fn a_token_round_trips_and_carries_the_original_claims() {
        let (_dir, folder) = keys();
        let token = SigningKey::read(&folder).unwrap().sign(&claims()).unwrap();
        assert_eq!(
            check(token.expose_secret(), &folder).unwrap().sub,
            claims().sub
        );
        let jwks = folder.key_set().unwrap().to_jwks().to_string();
        assert_eq!(KeySet::from_jwks(&jwks).unwrap(), folder.key_set().unwrap());
        let payload = token.expose_secret().split('.').nth(1).unwrap().to_owned();
        let payload: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        for claim in [
            "owner",
            "repositoryName",
            "repositoryURL",
            "labels",
            "workflowId",
            "iat",
            "tokenURL",
        ] {
            assert!(payload.get(claim).is_some(), "{claim}");
        }
    }

    #[test]
    fn every_claim_is_required() {
        let (_dir, folder) = keys();
        let all: Vec<String> = serde_json::to_value(claims())
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        // An earlier version had no `runnerMode`, and JIT alone.
        for claim in all.into_iter().filter(|claim| claim != "runnerMode") {
            let token = signed(&folder, |v| {
                v.as_object_mut().unwrap().remove(&claim);
            });
            assert!(
                matches!(check(&token, &folder), Err(TokenError::MissingClaim(_))),
                "{claim}: {:?}",
                check(&token, &folder)
            );
        }
    }

    #[test]
    fn times_and_parties_are_checked() {
        let (_dir, folder) = keys();
        let now = claims().iat;
        let token = |key: &'static str, value: Value| signed(&folder, |v| v[key] = value);
        assert_eq!(
            check(&token("exp", json!(now - 30)), &folder),
            Err(TokenError::Expired)
        );
        assert_eq!(
            check(&token("nbf", json!(now + 30)), &folder),
            Err(TokenError::NotYetValid)
        );
        assert_eq!(
            check(&token("aud", json!(["other"])), &folder),
            Err(TokenError::WrongParty)
        );
        assert_eq!(
            check(&token("iss", json!("other")), &folder),
            Err(TokenError::WrongParty)
        );
        // A node whose clock is 90 s behind.
        assert!(check(&token("iat", json!(now + 90)), &folder).is_ok());
        assert_eq!(
            check(&token("iat", json!(now + 600)), &folder),
            Err(TokenError::NotYetValid)
        );
        // The launcher's settings say how long a launch token is valid.
        assert!(check(&token("exp", json!(now + 6 * DEFAULT_LIFETIME_S)), &folder).is_ok());
    }

    #[test]
    fn assertions_are_valid_for_a_minute_and_no_longer() {
        let (_dir, folder) = keys();
        let signer = SigningKey::read(&folder).unwrap();
        let keys = folder.key_set().unwrap();
        let now = chrono::Utc::now().timestamp();
        let check = |lifetime_s: i64, iat: i64, nbf: i64| {
            let common = json!({"iss": ISSUER, "aud": [AUDIENCE_AGENT], "jti": uuid::Uuid::nil(),
                "iat": iat, "nbf": nbf, "exp": iat.saturating_add(lifetime_s), "cluster": "main"});
            let signed = |sub: &str| {
                let mut claims = common.clone();
                claims["sub"] = json!(sub);
                signer.sign(&claims).unwrap()
            };
            let [call, agent, user] = ["list", "poll", "alice"].map(signed);
            [
                verify::<CallClaims>(call.expose_secret(), &keys, AUDIENCE_AGENT, ISSUER).err(),
                verify::<AgentClaims>(agent.expose_secret(), &keys, AUDIENCE_AGENT, ISSUER).err(),
                verify::<UserClaims>(user.expose_secret(), &keys, AUDIENCE_AGENT, ISSUER).err(),
            ]
        };
        let all = |error: Option<TokenError>| [error.clone(), error.clone(), error];
        assert_eq!(check(60, now, now - 60), all(None));
        // The issuer's clock is a minute ahead.
        assert_eq!(check(60, now + 60, now), all(None));
        for lifetime_s in [61, 10 * 365 * 86_400] {
            let too_long = all(Some(TokenError::TooLong(60)));
            assert_eq!(check(lifetime_s, now, now - 60), too_long);
        }
        let launch = |lifetime_s: i64| {
            let claims = LaunchClaims {
                exp: now.saturating_add(lifetime_s),
                iat: now,
                ..claims()
            };
            let signed = signer.sign(&claims).unwrap();
            verify::<LaunchClaims>(signed.expose_secret(), &keys, AUDIENCE_AGENT, ISSUER).err()
        };
        assert_eq!(launch(LONGEST_LIFETIME_S), None);
        let too_long = Some(TokenError::TooLong(LONGEST_LIFETIME_S));
        assert_eq!(launch(LONGEST_LIFETIME_S + 1), too_long);
        assert_eq!(launch(i64::MAX), too_long);
        // Issued long ago, with an end in the future.
        assert_eq!(
            check(i64::MAX / 2, 0, 0),
            all(Some(TokenError::TooLong(60)))
        );
        // Not yet issued, so that it may be used later.
        let later = now + 86_400;
        assert_eq!(check(60, later, now), all(Some(TokenError::NotYetValid)));
    }

    #[test]
    fn the_header_decides_nothing() {
        let (_dir, folder) = keys();
        let (kid, _) = folder.newest().unwrap();
        let good = signed(&folder, |_| {});
        let (_, rest) = good.split_once('.').unwrap();
        let with_header =
            |header: Value| format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
        for header in [
            json!({"alg": "none", "kid": kid}),
            json!({"alg": "HS256", "kid": kid}),
            json!({"alg": "RS256", "kid": kid}),
            json!({"alg": "EdDSA", "kid": "../../other"}),
            json!({"alg": "EdDSA"}),
        ] {
            let error = check(&with_header(header.clone()), &folder).unwrap_err();
            assert!(
                matches!(
                    error,
                    TokenError::UnknownKey | TokenError::Malformed | TokenError::BadSignature
                ),
                "{header}: {error}"
            );
        }
        // Signed with the public key as an HMAC secret.
        let public = folder.key_set().unwrap().to_jwks()["keys"][0]["x"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid);
        let raw = URL_SAFE_NO_PAD.decode(public).unwrap();
        let confused =
            jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&raw)).unwrap();
        assert_eq!(check(&confused, &folder), Err(TokenError::UnknownKey));
    }

    #[test]
    fn a_rotation_keeps_old_tokens_valid_until_the_old_key_goes() {
        let (dir, folder) = keys();
        let old = SigningKey::read(&folder).unwrap();
        let token = old.sign(&claims()).unwrap();
        let new = folder.generate(2).unwrap();
        assert_eq!(SigningKey::read(&folder).unwrap().kid(), new);
        assert!(check(token.expose_secret(), &folder).is_ok());
        std::fs::remove_file(
            dir.path()
                .join("keys")
                .join(format!("{}.pub.pem", old.kid())),
        )
        .unwrap();
        assert_eq!(
            check(token.expose_secret(), &folder),
            Err(TokenError::UnknownKey)
        );
    }

    #[test]
    fn private_keys_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, folder) = keys();
        let (kid, _) = folder.newest().unwrap();
        let path = dir.path().join("keys").join(format!("{kid}.key.pem"));
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    proptest! {
        #[test]
        fn garbage_never_verifies(text in "\\PC{0,200}") {
            let (_dir, folder) = keys();
            prop_assert!(check(&text, &folder).is_err());
        }
    }
}
