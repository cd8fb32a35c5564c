//! The settings of each service. They become its TOML file; [`DeploymentBuilder::setting`] overrides single keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gha_slurm_storage::Role;
use serde_json::{Value, json};

use crate::postgres::url_of_role;

use super::{BackingServices, CLUSTER, Credentials, DeploymentBuilder, Service, SlurmBackend};

/// Nothing answers here (RFC 5737): nodes reach token-broker only through the agent's relay.
const NOWHERE: &str = "https://192.0.2.1:1";

/// Everything that the settings are made of.
pub(super) struct Wiring<'a> {
    pub(super) builder: &'a DeploymentBuilder,
    pub(super) ports: &'a BTreeMap<Service, u16>,
    pub(super) folder: &'a Path,
    pub(super) node_folder: &'a Path,
    pub(super) credentials: &'a Credentials,
    pub(super) backing: &'a BackingServices<'a>,
}

impl Wiring<'_> {
    /// The settings of one service.
    pub(super) fn of(&self, service: Service) -> Value {
        let mut settings = match service {
            Service::WebhookIngest => json!({
                "amqp": { "url": self.backing.amqp_url },
                "webhook": { "secret_file": self.credentials.webhook_secret_file },
            }),
            Service::Launcher => json!({
                "amqp": { "url": self.backing.amqp_url },
                "cluster": self.cluster(),
                "database": self.database(Role::Launcher),
                "deployment": { "name": self.builder.name },
                "github": self.github(),
                "keys": { "folder": self.credentials.launch_keys },
            }),
            Service::TokenBroker => json!({
                "access": { "service_tokens_file": self.credentials.service_token_file },
                "database": self.database(Role::TokenBroker),
                "deployment": { "name": self.builder.name },
                "github": self.github(),
                "keys": { "folder": self.credentials.launch_keys },
            }),
            Service::RepoMapping => json!({
                "access": { "tokens_file": self.credentials.bearer_token_file },
                "database": self.database(Role::RepoMapping),
                "github": { "web_url": self.backing.github_url },
                "token_broker": {
                    "url": self.url(Service::TokenBroker),
                    "service_token_file": self.credentials.service_token_file,
                },
                "agents": [{ "cluster": CLUSTER, "public_keys": self.credentials.agent_keys }],
            }),
            Service::Agent => self.agent(),
        };
        // Off this machine, browsers take the cookie of a session over TLS alone.
        if service == Service::RepoMapping && self.builder.host.is_loopback() {
            settings["sign_in"] = self.sign_in();
        }
        if service != self.caller() {
            settings["http"] = json!({ "listen": self.address(service) });
        }
        if self.builder.mutual_tls {
            self.add_tls(service, &mut settings);
        }
        settings
    }

    /// With the role of the service, not as the owner.
    fn database(&self, role: Role) -> Value {
        json!({ "url": url_of_role(self.backing.database_url, role) })
    }

    fn github(&self) -> Value {
        json!({
            "api_url": self.backing.github_url,
            "web_url": self.backing.github_url,
            "app_id": super::APP_ID,
            "private_key_file": self.credentials.app_private_key_file,
            // The simulator has no secondary limit, and benchmarks no time for one.
            "points_per_minute": 1_000_000,
        })
    }

    /// The simulator's host, as the agent's settings name hosts that speak plain HTTP.
    fn github_host(&self) -> String {
        let url = self.backing.github_url.strip_prefix("http://");
        let host = url.and_then(|rest| rest.split(['/', ':']).next());
        format!("http://{}", host.unwrap_or_default())
    }

    /// repo-mapping's `[sign_in]`.
    fn sign_in(&self) -> Value {
        json!({
            "public_url": self.url(Service::RepoMapping),
            "client_id": super::CLIENT_ID,
            "client_secret_file": self.credentials.client_secret_file,
            "api_url": self.backing.github_url,
        })
    }

    /// The launcher's `[cluster]`.
    fn cluster(&self) -> Value {
        let mut cluster = if self.builder.outbound {
            json!({ "agent_public_keys": self.credentials.agent_keys, "token_url": NOWHERE })
        } else {
            json!({ "agent_url": self.called_url(), "token_url": self.url(Service::TokenBroker) })
        };
        cluster["name"] = CLUSTER.into();
        if self.builder.poll_each_second {
            cluster["states_interval_s"] = 1.into();
        }
        cluster
    }

    fn agent(&self) -> Value {
        let mut agent = json!({
            "deployment": { "name": self.builder.name },
            "cluster": { "name": CLUSTER },
            "keys": { "public_keys": self.credentials.launch_keys },
            "token_broker": { "urls": [self.url(Service::TokenBroker)] },
            "state": { "folder": self.folder.join("agent") },
            "runner": {
                "folder": self.node_folder.join("runner"),
                "work_root": self.node_folder.join("work"),
                "github_hosts": [self.github_host()],
            },
            "slurm": { "backend": "local" },
        });
        if self.builder.poll_each_second {
            agent["slurm"]["interval_s"] = 1.into();
        }
        if let Some(slurm) = &self.builder.slurm {
            let output = self.node_folder.join("output");
            agent["slurm"]["backend"] = slurm.backend.as_str().into();
            // The users of a private Slurm are Debian's system users.
            agent["policy"] = json!({ "min_uid": 1 });
            agent[slurm.backend.as_str()] = match slurm.backend {
                SlurmBackend::Sbatch => json!({
                    "run_as": "root",
                    "conf": slurm.conf,
                    "output_folder": output,
                }),
                SlurmBackend::Slurmrestd => json!({
                    "url": slurm.rest_url,
                    "tokens": "scontrol",
                    "conf": slurm.conf,
                    "service_user": "bin",
                    "output_folder": output,
                }),
            };
        }
        if let Some(self_service) = &self.builder.self_service {
            agent["identity"] = json!({ "keys": self.credentials.agent_keys });
            agent["self_service"] = json!({
                "repo_mapping_url": self.url(Service::RepoMapping),
                "login_nodes": [self_service.login_node],
                "unmunge": self_service.unmunge,
            });
        }
        if self.builder.outbound {
            // Beside the agent's nodes.
            let relay = format!("127.0.0.1:{}", self.ports[&Service::Agent]);
            agent["identity"] = json!({ "keys": self.credentials.agent_keys });
            agent["outbound"] = json!({ "launchers": [self.called_url()] });
            agent["relay"] = json!({
                "listen": relay,
                "public_url": format!("http://{relay}"),
                "upstream": self.url(Service::TokenBroker),
            });
        }
        agent
    }

    /// Launcher and agent show each other certificates of the deployment's CA.
    fn add_tls(&self, service: Service, settings: &mut Value) {
        let pem = |name: &str| -> PathBuf { self.folder.join(name) };
        if service == self.called() {
            settings["http"]["tls"] = json!({
                "certificate": pem("called.pem"),
                "key": pem("called.key.pem"),
                "client_ca": pem("ca.pem"),
            });
        } else if service == self.caller() {
            let section = if self.builder.outbound {
                "outbound"
            } else {
                "cluster"
            };
            settings[section]["tls"] = json!({
                "ca_file": pem("ca.pem"),
                "client_certificate": pem("caller.pem"),
                "client_key": pem("caller.key.pem"),
            });
        }
    }

    /// Which of launcher and agent calls the other.
    fn caller(&self) -> Service {
        if self.builder.outbound {
            Service::Agent
        } else {
            Service::Launcher
        }
    }

    /// Which of launcher and agent is called.
    fn called(&self) -> Service {
        if self.builder.outbound {
            Service::Launcher
        } else {
            Service::Agent
        }
    }

    /// The base URL by which launcher or agent calls the other.
    fn called_url(&self) -> String {
        let scheme = if self.builder.mutual_tls {
            "https"
        } else {
            "http"
        };
        let port = self.ports[&self.called()];
        match &self.builder.agent_host {
            Some(host) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{}:{port}", self.builder.host),
        }
    }

    fn address(&self, service: Service) -> String {
        super::address(self.builder.host, self.ports, service)
    }

    fn url(&self, service: Service) -> String {
        format!("http://{}", self.address(service))
    }
}
