//! People and what they may do in repositories.

use super::{Now, World};
use crate::model::{Account, Person, Repository, Role};
use crate::request::{ControlError, NewPerson};

impl World {
    /// Creates a person, unless a person of this name exists.
    pub(crate) fn create_person(&mut self, new: &NewPerson) -> Result<Person, ControlError> {
        let login = new.login.as_str();
        if login.is_empty() || login.contains('/') {
            return Err(ControlError::Conflict(format!(
                "{login:?} is not the name of a person"
            )));
        }
        let account = self.account(login, false);
        if account.organization {
            return Err(ControlError::Conflict(format!(
                "{login} is an organization"
            )));
        }
        Ok(self.person(&account))
    }

    /// Everyone, by login.
    pub(crate) fn people(&self) -> Vec<Person> {
        self.logins().map(|account| self.person(account)).collect()
    }

    /// The accounts of people, by login.
    pub(crate) fn logins(&self) -> impl Iterator<Item = &Account> {
        self.accounts
            .values()
            .filter(|account| !account.organization)
    }

    fn person(&self, account: &Account) -> Person {
        let roles = self.roles.iter();
        Person {
            id: account.id,
            login: account.login.clone(),
            roles: roles
                .filter(|((_, person_id), _)| *person_id == account.id)
                .map(|((repository_id, _), role)| (*repository_id, *role))
                .collect(),
            authorized: self.sign_ins.has_authorized(account.id),
        }
    }

    pub(crate) fn person_named(&self, login: &str) -> Result<&Account, ControlError> {
        self.accounts
            .get(&login.to_ascii_lowercase())
            .filter(|account| !account.organization)
            .ok_or_else(|| ControlError::NotFound(format!("person {login}")))
    }

    pub(crate) fn person_with_id(&self, id: i64) -> Option<&Account> {
        self.logins().find(|account| account.id == id)
    }

    /// Sets what a person may do in a repository, or takes it away.
    pub(crate) fn set_role(
        &mut self,
        repository_id: i64,
        login: &str,
        role: Option<Role>,
    ) -> Result<(), ControlError> {
        let repository = self.repository(repository_id)?;
        let person = self.person_named(login)?;
        if repository.owner.id == person.id {
            return Err(ControlError::Conflict(format!(
                "{login} owns {}",
                repository.full_name()
            )));
        }
        let key = (repository_id, person.id);
        match role {
            Some(role) => self.roles.insert(key, role),
            None => self.roles.remove(&key),
        };
        Ok(())
    }

    /// The role that a person has as the owner or was given; a public repository gives none by itself.
    pub(crate) fn explicit_role(&self, person_id: i64, repository: &Repository) -> Option<Role> {
        if repository.owner.id == person_id {
            return Some(Role::Admin);
        }
        self.roles.get(&(repository.id, person_id)).copied()
    }

    /// What a user access token allows in a repository: what the person may do, if the App can see the repository as
    /// well. Public repositories are there for everyone
    /// (<https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app>).
    pub(crate) fn role_of_token(&self, person_id: i64, repository: &Repository) -> Option<Role> {
        let is_installed = self
            .installation_for(repository.id)
            .is_some_and(|installation| installation.suspended_at.is_none());
        self.explicit_role(person_id, repository)
            .filter(|_| is_installed || !repository.private)
            .or((!repository.private).then_some(Role::Pull))
    }

    /// A person revokes the App's authorization in the settings of their account: every token ends, and the App receives
    /// a webhook.
    pub(crate) fn revoke_authorization(
        &mut self,
        login: &str,
        now: Now,
    ) -> Result<(), ControlError> {
        let person = self.person_named(login)?.clone();
        if !self.sign_ins.revoke(person.id) {
            return Err(ControlError::Conflict(format!(
                "{login} has not authorized the App"
            )));
        }
        self.emit_authorization_revoked(&person, now);
        Ok(())
    }
}
