//! People, their roles, and their sign-in.

use secrecy::SecretString;

use super::Handle;
use crate::model::{Person, Role};
use crate::request::{ControlError, NewPerson};
use crate::sign_in;

impl Handle {
    /// Creates a person, or returns the one of this name. A repository of this name made later is the person's own.
    pub fn create_person(&self, login: &str) -> Result<Person, ControlError> {
        let new = NewPerson {
            login: login.to_owned(),
        };
        self.shared.change(|world, _| world.create_person(&new))
    }

    /// Sets what a person may do in a repository.
    pub fn set_role(
        &self,
        repository_id: i64,
        login: &str,
        role: Role,
    ) -> Result<(), ControlError> {
        self.shared
            .change(|world, _| world.set_role(repository_id, login, Some(role)))
    }

    /// Takes a person's role in a repository away.
    pub fn remove_role(&self, repository_id: i64, login: &str) -> Result<(), ControlError> {
        self.shared
            .change(|world, _| world.set_role(repository_id, login, None))
    }

    /// The App's client id.
    pub fn client_id(&self) -> String {
        self.shared.read(|world, _| world.app.client_id.clone())
    }

    /// The App's client secret.
    pub fn client_secret(&self) -> SecretString {
        self.shared.read(|world, _| world.app.client_secret.clone())
    }

    /// Replaces the App's callback URLs. The first one is the default.
    pub fn set_callback_urls(&self, urls: Vec<String>) -> Result<(), ControlError> {
        sign_in::check_callback_urls(&urls)?;
        self.shared
            .change(|world, _| world.app.callback_urls = urls);
        Ok(())
    }

    /// What a browser does: opens the address of the App's "Sign in with GitHub" and chooses this person. Returns the
    /// address that GitHub redirects to.
    pub fn authorize(&self, login: &str, authorize_url: &str) -> Result<String, ControlError> {
        self.shared.change(|world, now| {
            sign_in::decide_at(world, authorize_url, sign_in::Choice::SignIn(login), now)
        })
    }

    /// As [`authorize`](Self::authorize), but chooses "Cancel".
    pub fn cancel_authorization(&self, authorize_url: &str) -> Result<String, ControlError> {
        self.shared.change(|world, now| {
            sign_in::decide_at(world, authorize_url, sign_in::Choice::Cancel, now)
        })
    }

    /// A person revokes the App's authorization in the settings of their account: every token ends, and the App receives
    /// the webhook `github_app_authorization`.
    pub fn revoke_authorization(&self, login: &str) -> Result<(), ControlError> {
        self.shared
            .change(|world, now| world.revoke_authorization(login, now))
    }
}
