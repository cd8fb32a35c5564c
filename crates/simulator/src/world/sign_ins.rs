//! Codes and tokens of people who sign in through the App.
//!
//! What ended is forgotten: [`SignIns::prune`] runs with every code and token, and all the time.

use std::collections::{BTreeMap, BTreeSet};

use super::time::{Now, end};
use super::tokens::noise;
use crate::request::TokenKind;
use crate::settings::Timing;

/// Who has authorized the App, and the tokens it has for them.
#[derive(Debug, Default)]
pub(crate) struct SignIns {
    /// Ids of the people who have authorized the App.
    authorized: BTreeSet<i64>,
    codes: BTreeMap<String, Code>,
    access_tokens: BTreeMap<String, AccessToken>,
    refresh_tokens: BTreeMap<String, RefreshToken>,
}

/// What an authorization code stands for.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) person_id: i64,
    /// Where the person was sent back to.
    pub(crate) redirect_uri: String,
    /// The PKCE challenge (S256).
    pub(crate) challenge: Option<String>,
    pub(crate) expires_at: Now,
}

#[derive(Debug)]
struct AccessToken {
    person_id: i64,
    expires_at: Now,
}

#[derive(Debug)]
struct RefreshToken {
    person_id: i64,
    expires_at: Now,
    /// The access token that it came with.
    access_token: String,
}

/// A user access token with its refresh token.
#[derive(Debug)]
pub(crate) struct TokenPair {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
}

impl SignIns {
    /// Records that a person authorizes the App. Returns the code that they bring back.
    pub(crate) fn authorize(&mut self, code: Code, now: Now) -> String {
        self.prune(now);
        let text = noise(20);
        self.authorized.insert(code.person_id);
        self.codes.insert(text.clone(), code);
        text
    }

    pub(crate) fn has_authorized(&self, person_id: i64) -> bool {
        self.authorized.contains(&person_id)
    }

    /// What a code stands for. A code serves once, however the exchange ends.
    pub(crate) fn take_code(&mut self, code: &str, now: Now) -> Option<Code> {
        self.codes
            .remove(code)
            .filter(|known| known.expires_at > now)
    }

    /// Issues a pair of tokens.
    pub(crate) fn issue(&mut self, person_id: i64, timing: &Timing, now: Now) -> TokenPair {
        self.prune(now);
        let pair = TokenPair {
            access_token: format!("ghu_{}", noise(36)),
            refresh_token: format!("ghr_{}", noise(76)),
        };
        self.access_tokens.insert(
            pair.access_token.clone(),
            AccessToken {
                person_id,
                expires_at: end(now, timing.user_token),
            },
        );
        self.refresh_tokens.insert(
            pair.refresh_token.clone(),
            RefreshToken {
                person_id,
                expires_at: end(now, timing.refresh_token),
                access_token: pair.access_token.clone(),
            },
        );
        pair
    }

    /// Replaces a pair of tokens: the refresh token and the access token that it came with end.
    pub(crate) fn refresh(
        &mut self,
        refresh_token: &str,
        timing: &Timing,
        now: Now,
    ) -> Option<TokenPair> {
        let used = self
            .refresh_tokens
            .remove(refresh_token)
            .filter(|known| known.expires_at > now)?;
        self.access_tokens.remove(&used.access_token);
        Some(self.issue(used.person_id, timing, now))
    }

    /// Whose token it is, unless it has ended.
    pub(crate) fn person_of(&self, access_token: &str, now: Now) -> Option<i64> {
        self.access_tokens
            .get(access_token)
            .filter(|known| known.expires_at > now)
            .map(|known| known.person_id)
    }

    /// Ends one access token with its refresh token. Returns `false` if there is no such token.
    pub(crate) fn revoke_token(&mut self, access_token: &str, now: Now) -> bool {
        let is_known = self.person_of(access_token, now).is_some();
        self.access_tokens.remove(access_token);
        if is_known {
            self.refresh_tokens
                .retain(|_, known| known.access_token != access_token);
        }
        is_known
    }

    /// Ends all codes and tokens of a person. Returns `false` if the person had not authorized the App.
    pub(crate) fn revoke(&mut self, person_id: i64) -> bool {
        self.codes.retain(|_, known| known.person_id != person_id);
        self.access_tokens
            .retain(|_, known| known.person_id != person_id);
        self.refresh_tokens
            .retain(|_, known| known.person_id != person_id);
        self.authorized.remove(&person_id)
    }

    /// Forgets what has ended.
    pub(crate) fn prune(&mut self, now: Now) {
        self.codes.retain(|_, known| known.expires_at > now);
        self.access_tokens.retain(|_, known| known.expires_at > now);
        self.refresh_tokens
            .retain(|_, known| known.expires_at > now);
    }

    /// Ends everything of this kind.
    pub(crate) fn expire(&mut self, kind: TokenKind) {
        match kind {
            TokenKind::AuthorizationCode => self.codes.clear(),
            TokenKind::User => self.access_tokens.clear(),
            TokenKind::Refresh => self.refresh_tokens.clear(),
            TokenKind::Installation | TokenKind::Registration => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_has_ended_is_forgotten() {
        let mut sign_ins = SignIns::default();
        let start = Now::UNIX_EPOCH;
        let timing = Timing::default();
        for second in 0..100 {
            let now = start + TimeDelta::seconds(second);
            let code = Code {
                person_id: 1,
                redirect_uri: String::new(),
                challenge: None,
                expires_at: end(now, timing.authorization_code),
            };
            sign_ins.authorize(code, now);
            sign_ins.issue(1, &timing, now);
        }
        assert_eq!(sign_ins.codes.len(), 100);
        sign_ins.prune(start + TimeDelta::hours(9));
        assert_eq!((sign_ins.codes.len(), sign_ins.access_tokens.len()), (0, 0));
        assert_eq!(sign_ins.refresh_tokens.len(), 100);
        sign_ins.prune(start + TimeDelta::days(184));
        assert!(sign_ins.refresh_tokens.is_empty());
    }
}
