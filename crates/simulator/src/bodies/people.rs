//! People, and repositories as they see them.

use serde_json::{Value, json};

use super::{account, put};
use crate::model::{Account, Repository, Role};
use crate::world::World;

/// What a role allows, permission by permission.
fn permissions(role: Role) -> Value {
    json!({
        "admin": role >= Role::Admin,
        "maintain": role >= Role::Maintain,
        "push": role >= Role::Push,
        "triage": role >= Role::Triage,
        "pull": role >= Role::Pull,
    })
}

impl World {
    /// A person as they see themselves, with the public part of the profile: the App has no permission for more.
    pub(crate) fn person_body(&self, person: &Account) -> Value {
        let owned = self.repositories.values();
        let public = owned.filter(|one| one.owner.id == person.id && !one.private);
        let mut body = account(person, &self.addresses);
        put(
            &mut body,
            json!({
                "user_view_type": "public",
                "name": null,
                "company": null,
                "blog": "",
                "location": null,
                "email": null,
                "hireable": null,
                "bio": null,
                "twitter_username": null,
                "notification_email": null,
                "public_repos": public.count(),
                "public_gists": 0,
                "followers": 0,
                "following": 0,
                "created_at": "2008-01-14T04:33:35Z",
                "updated_at": "2008-01-14T04:33:35Z",
            }),
        );
        body
    }

    /// A repository as a person with this role sees it.
    pub(crate) fn repository_body_for(&self, repository: &Repository, role: Role) -> Value {
        let mut body = self.repository_body(repository);
        put(&mut body, json!({ "permissions": permissions(role) }));
        body
    }
}
