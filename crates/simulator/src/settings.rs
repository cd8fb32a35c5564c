//! What a simulator is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use secrecy::SecretString;
use url::Url;

use crate::world::tokens::noise;

/// Everything a simulator is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its address in answers and payloads; `http://` and the listening address when absent.
    pub public_url: Option<Url>,
    /// Where repositories have their pages (`https://github.com` at GitHub); the public address when absent.
    pub web_url: Option<Url>,
    /// The one App it knows.
    pub app: AppFacts,
    /// Checks the App's signatures.
    pub app_key: AppKey,
    /// How long things last.
    pub timing: Timing,
}

impl Settings {
    /// Listens on a free loopback port, with GitHub's own times. The client secret is random, and there are no callback
    /// URLs, so nobody can sign in before `app.callback_urls` has one.
    pub fn new(app_id: u64, app_key: AppKey) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            web_url: None,
            app: AppFacts {
                id: app_id,
                slug: "gha-slurm".to_owned(),
                client_id: format!("Iv23li{app_id:014}"),
                client_secret: SecretString::from(noise(40)),
                callback_urls: Vec::new(),
            },
            app_key,
            timing: Timing::default(),
        }
    }
}

/// The App, as GitHub knows it.
#[derive(Debug, Clone)]
pub struct AppFacts {
    /// Its numeric id.
    pub id: u64,
    /// Its name in addresses.
    pub slug: String,
    /// Its client id, accepted as issuer as well.
    pub client_id: String,
    /// Its client secret, for the sign-in of people.
    pub client_secret: SecretString,
    /// The addresses that people may be sent back to after signing in. The first one is the default.
    pub callback_urls: Vec<String>,
}

/// How long things last. The defaults are GitHub's.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Installation access tokens: 1 h.
    pub installation_token: Duration,
    /// Registration and remove tokens: 1 h.
    pub runner_token: Duration,
    /// The code that a person brings back from signing in: 10 min.
    pub authorization_code: Duration,
    /// User access tokens: 8 h.
    pub user_token: Duration,
    /// Refresh tokens: 183 days.
    pub refresh_token: Duration,
    /// A workflow job that its runner did not take is offered again: 60 s.
    pub pick_up: Duration,
    /// A workflow job fails when its runner was not heard of: 10 min.
    pub lost_runner: Duration,
    /// A webhook must be answered: 10 s.
    pub webhook: Duration,
    /// REST calls per installation and hour: 5,000.
    pub rate_limit: u64,
}

impl Default for Timing {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            installation_token: HOUR,
            runner_token: HOUR,
            authorization_code: Duration::from_secs(600),
            user_token: 8 * HOUR,
            refresh_token: Duration::from_secs(15_811_200),
            pick_up: Duration::from_secs(60),
            lost_runner: Duration::from_secs(600),
            webhook: Duration::from_secs(10),
            rate_limit: 5000,
        }
    }
}

/// The public half of the App's RSA key.
#[derive(Clone)]
pub struct AppKey(pub(crate) DecodingKey);

impl std::fmt::Debug for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppKey")
    }
}
