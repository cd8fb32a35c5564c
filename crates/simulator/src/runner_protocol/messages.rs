//! What crosses between the stand-in runner and the simulator.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Conclusion, Step};

/// Why something was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// `config.sh`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) labels: Vec<String>,
    pub(crate) work_folder: String,
    pub(crate) ephemeral: bool,
    pub(crate) replace: bool,
}

/// `config.sh remove`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Removal {
    pub(crate) runner_id: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewSession {
    pub(crate) version: String,
    pub(crate) os: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) session_id: String,
    pub(crate) runner_name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) workflow_job_id: i64,
}

/// A workflow job, for the runner that took it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) workflow_job_id: i64,
    pub(crate) name: String,
    pub(crate) script: String,
    pub(crate) set_up_ms: u64,
    pub(crate) container: Option<String>,
    pub(crate) services: Vec<String>,
    pub(crate) run_id: i64,
    pub(crate) run_number: i64,
    pub(crate) repository: String,
    pub(crate) repository_id: i64,
    pub(crate) event_name: String,
    pub(crate) head_sha: String,
    pub(crate) head_branch: String,
    pub(crate) actor: String,
    pub(crate) actor_id: i64,
    pub(crate) event: Value,
    pub(crate) server_url: String,
    pub(crate) api_url: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RenewedLock {
    pub(crate) cancelled: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) conclusion: Conclusion,
    pub(crate) steps: Vec<Step>,
    pub(crate) output: String,
}
