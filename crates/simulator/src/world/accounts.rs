//! Accounts, installations and repositories.

use std::collections::BTreeSet;

use super::{Ids, Now, World};
use crate::model::{Access, Account, Installation, Permissions, Repository};
use crate::request::{ControlError, NewInstallation, NewRepository, RepositoryChange};

/// What became of a name.
pub(crate) enum Lookup {
    /// It is the present name.
    Found(Repository),
    /// The repository has another name now.
    Renamed(i64),
    /// Nobody has or had it.
    Unknown,
}

/// The least that repository runners need (GitHub docs, permissions of each route).
fn runner_permissions() -> Permissions {
    Permissions::from([
        ("administration".to_owned(), Access::Write),
        ("actions".to_owned(), Access::Read),
        ("metadata".to_owned(), Access::Read),
    ])
}

impl World {
    pub(crate) fn account(&mut self, login: &str, organization: bool) -> Account {
        let ids = &mut self.ids;
        self.accounts
            .entry(login.to_ascii_lowercase())
            .or_insert_with(|| Account {
                id: Ids::next(&mut ids.account),
                login: login.to_owned(),
                organization,
            })
            .clone()
    }

    pub(crate) fn install(
        &mut self,
        new: NewInstallation,
        now: Now,
    ) -> Result<Installation, ControlError> {
        let account = self.account(&new.login, new.organization);
        if self.installation_of(account.id).is_some() {
            return Err(ControlError::Conflict(format!(
                "the App is already installed on {}",
                account.login
            )));
        }
        let repository_ids = self
            .repositories
            .values()
            .filter(|repository| new.all_repositories && repository.owner.id == account.id)
            .map(|repository| repository.id)
            .collect();
        let installation = Installation {
            id: Ids::next(&mut self.ids.installation),
            account,
            all_repositories: new.all_repositories,
            repository_ids,
            permissions: if new.permissions.is_empty() {
                runner_permissions()
            } else {
                new.permissions
            },
            suspended_at: None,
            created_at: now,
            updated_at: now,
        };
        self.installations
            .insert(installation.id, installation.clone());
        self.emit_installation("created", &installation, now);
        Ok(installation)
    }

    pub(crate) fn uninstall(&mut self, id: i64, now: Now) -> Result<(), ControlError> {
        let installation = self
            .installations
            .remove(&id)
            .ok_or_else(|| ControlError::NotFound(format!("installation {id}")))?;
        self.tokens.forget_installation(id);
        self.emit_installation("deleted", &installation, now);
        Ok(())
    }

    pub(crate) fn suspend(
        &mut self,
        id: i64,
        suspended: bool,
        now: Now,
    ) -> Result<Installation, ControlError> {
        let installation = self
            .installations
            .get_mut(&id)
            .ok_or_else(|| ControlError::NotFound(format!("installation {id}")))?;
        installation.suspended_at = suspended.then_some(now);
        installation.updated_at = now;
        let installation = installation.clone();
        let action = if suspended { "suspend" } else { "unsuspend" };
        self.emit_installation(action, &installation, now);
        Ok(installation)
    }

    pub(crate) fn create_repository(
        &mut self,
        new: &NewRepository,
        now: Now,
    ) -> Result<Repository, ControlError> {
        let (owner, name) = split(&new.full_name)?;
        if let Lookup::Found(repository) = self.find_repository(owner, name) {
            return Err(ControlError::Conflict(format!(
                "{} exists",
                repository.full_name()
            )));
        }
        // Whoever makes a repository with a former name takes that name over.
        self.former_names
            .remove(&new.full_name.to_ascii_lowercase());
        let owner = self.account(owner, true);
        let repository = Repository {
            id: Ids::next(&mut self.ids.repository),
            owner: owner.clone(),
            name: name.to_owned(),
            private: new.private,
            created_at: now,
        };
        self.repositories.insert(repository.id, repository.clone());
        if new.installed {
            if self.installation_of(owner.id).is_some() {
                self.add_to_installation(repository.id, now)?;
            } else {
                self.install(NewInstallation::on(&owner.login), now)?;
            }
        }
        Ok(repository)
    }

    pub(crate) fn change_repository(
        &mut self,
        id: i64,
        change: &RepositoryChange,
        now: Now,
    ) -> Result<Repository, ControlError> {
        let present = self.repository(id)?.clone();
        let mut changed = present.clone();
        changed.private = change.private.unwrap_or(present.private);
        if let Some(name) = &change.name {
            changed.name.clone_from(name);
        }
        if let Some(owner) = &change.owner {
            changed.owner = self.account(owner, true);
        }
        if let Lookup::Found(other) = self.find_repository(&changed.owner.login, &changed.name)
            && other.id != id
        {
            return Err(ControlError::Conflict(format!(
                "{} exists",
                other.full_name()
            )));
        }
        let is_transferred = changed.owner.id != present.owner.id;
        if is_transferred && self.installation_for(id).is_some() {
            self.remove_from_installation(id, now)?;
        }
        if changed.full_name() != present.full_name() {
            self.former_names
                .insert(present.full_name().to_ascii_lowercase(), id);
            self.former_names
                .remove(&changed.full_name().to_ascii_lowercase());
        }
        self.repositories.insert(id, changed.clone());
        if is_transferred && self.installation_of(changed.owner.id).is_some() {
            self.add_to_installation(id, now)?;
        }
        Ok(changed)
    }

    pub(crate) fn delete_repository(&mut self, id: i64, now: Now) -> Result<(), ControlError> {
        self.repository(id)?;
        if self.installation_for(id).is_some() {
            self.remove_from_installation(id, now)?;
        }
        self.repositories.remove(&id);
        self.roles
            .retain(|(repository_id, _), _| *repository_id != id);
        self.former_names.retain(|_, named| *named != id);
        self.runners
            .retain(|_, runner| runner.facts.repository_id != id);
        self.workflow_jobs
            .retain(|_, workflow_job| workflow_job.repository_id != id);
        self.runs.retain(|_, run| run.repository_id != id);
        Ok(())
    }

    pub(crate) fn add_to_installation(&mut self, id: i64, now: Now) -> Result<(), ControlError> {
        let repository = self.repository(id)?.clone();
        let installation = self
            .installations
            .values_mut()
            .find(|installation| installation.account.id == repository.owner.id)
            .ok_or_else(|| {
                ControlError::NotFound(format!("installation on {}", repository.owner.login))
            })?;
        if installation.repository_ids.insert(id) {
            installation.updated_at = now;
            let installation = installation.clone();
            self.emit_installation_repositories("added", &installation, &repository, now);
        }
        Ok(())
    }

    pub(crate) fn remove_from_installation(
        &mut self,
        id: i64,
        now: Now,
    ) -> Result<(), ControlError> {
        let repository = self.repository(id)?.clone();
        let installation = self
            .installations
            .values_mut()
            .find(|installation| installation.repository_ids.contains(&id))
            .ok_or_else(|| {
                ControlError::Conflict(format!(
                    "the App is not installed on {}",
                    repository.full_name()
                ))
            })?;
        installation.repository_ids.remove(&id);
        installation.all_repositories = false;
        installation.updated_at = now;
        let installation = installation.clone();
        self.emit_installation_repositories("removed", &installation, &repository, now);
        Ok(())
    }

    pub(crate) fn repository(&self, id: i64) -> Result<&Repository, ControlError> {
        self.repositories
            .get(&id)
            .ok_or_else(|| ControlError::NotFound(format!("repository {id}")))
    }

    /// Names are compared without case, as GitHub does.
    pub(crate) fn find_repository(&self, owner: &str, name: &str) -> Lookup {
        let wanted = format!("{owner}/{name}").to_ascii_lowercase();
        let found = self
            .repositories
            .values()
            .find(|repository| repository.full_name().to_ascii_lowercase() == wanted);
        match (found, self.former_names.get(&wanted)) {
            (Some(repository), _) => Lookup::Found(repository.clone()),
            (None, Some(id)) => Lookup::Renamed(*id),
            (None, None) => Lookup::Unknown,
        }
    }

    pub(crate) fn repository_named(&self, full_name: &str) -> Result<Repository, ControlError> {
        let (owner, name) = split(full_name)?;
        match self.find_repository(owner, name) {
            Lookup::Found(repository) => Ok(repository),
            _ => Err(ControlError::NotFound(format!("repository {full_name}"))),
        }
    }

    pub(crate) fn installation_of(&self, account_id: i64) -> Option<&Installation> {
        self.installations
            .values()
            .find(|installation| installation.account.id == account_id)
    }

    /// The installation that sees this repository.
    pub(crate) fn installation_for(&self, repository_id: i64) -> Option<&Installation> {
        self.installations
            .values()
            .find(|installation| installation.repository_ids.contains(&repository_id))
    }

    /// The repositories of an installation, by id.
    pub(crate) fn repositories_among(&self, ids: &BTreeSet<i64>) -> Vec<Repository> {
        ids.iter()
            .filter_map(|id| self.repositories.get(id))
            .cloned()
            .collect()
    }
}

fn split(full_name: &str) -> Result<(&str, &str), ControlError> {
    match full_name.split_once('/') {
        Some((owner, name)) if !owner.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((owner, name))
        }
        _ => Err(ControlError::Conflict(format!(
            "{full_name:?} is not owner/name"
        ))),
    }
}
