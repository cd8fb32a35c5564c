//! Installation, registration and remove tokens.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::model::{Access, Permissions};
use crate::request::TokenKind;

/// What an installation access token allows.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) installation_id: i64,
    /// `None`: whatever the installation sees.
    pub(crate) repository_ids: Option<BTreeSet<i64>>,
    pub(crate) permissions: Permissions,
    pub(crate) expires_at: DateTime<Utc>,
}

impl Grant {
    pub(crate) fn allows(&self, permission: &str, access: Access) -> bool {
        (permission == "metadata" && access == Access::Read)
            || self
                .permissions
                .get(permission)
                .is_some_and(|granted| *granted >= access)
    }
}

/// What a token of the runner's configuration allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunnerTokenUse {
    Register,
    Remove,
}

#[derive(Debug)]
struct RunnerToken {
    repository_id: i64,
    usage: RunnerTokenUse,
    expires_at: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    grants: BTreeMap<String, Grant>,
    runner_tokens: BTreeMap<String, RunnerToken>,
}

impl Tokens {
    /// Gives the token for a grant: `ghs_`, the App's id and three parts, about 520 characters, as GitHub's are since
    /// April 2026.
    pub(crate) fn mint(&mut self, app_id: u64, grant: Grant) -> String {
        let token = format!("ghs_{app_id}_{}.{}.{}", noise(64), noise(256), noise(171));
        self.grants.insert(token.clone(), grant);
        token
    }

    /// What a token allows, unless it is over.
    pub(crate) fn grant(&self, token: &str, now: DateTime<Utc>) -> Option<&Grant> {
        self.grants
            .get(token)
            .filter(|grant| grant.expires_at > now)
    }

    pub(crate) fn runner_token(
        &mut self,
        repository_id: i64,
        usage: RunnerTokenUse,
        expires_at: DateTime<Utc>,
    ) -> String {
        // 29 capitals and digits.
        let token = format!("A{}", noise(28)).to_ascii_uppercase();
        self.runner_tokens.insert(
            token.clone(),
            RunnerToken {
                repository_id,
                usage,
                expires_at,
            },
        );
        token
    }

    /// The repository a runner token is for.
    pub(crate) fn repository_of(
        &self,
        token: &str,
        usage: RunnerTokenUse,
        now: DateTime<Utc>,
    ) -> Option<i64> {
        self.runner_tokens
            .get(token)
            .filter(|known| known.usage == usage && known.expires_at > now)
            .map(|known| known.repository_id)
    }

    pub(crate) fn forget_installation(&mut self, id: i64) {
        self.grants.retain(|_, grant| grant.installation_id != id);
    }

    pub(crate) fn expire(&mut self, kind: TokenKind) {
        match kind {
            TokenKind::Installation => self.grants.clear(),
            TokenKind::Registration => self.runner_tokens.clear(),
            TokenKind::AuthorizationCode | TokenKind::User | TokenKind::Refresh => {}
        }
    }
}

/// So many random letters and digits.
pub(crate) fn noise(length: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        text.push_str(&Uuid::new_v4().simple().to_string());
    }
    text.truncate(length);
    text
}
