//! `container:` and `services:`, by runner container hooks: a script that gets a command as JSON on standard input
//! (ContainerHookManager.cs; <https://github.com/actions/runner-container-hooks>). Docker itself is not there.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use chrono::Utc;
use serde_json::{Value, json};

use crate::runner_protocol::messages::Work;
use crate::standin::job_environment::made;
use crate::standin::worker::Job;

/// What a workflow job says about containers.
pub(super) struct Containers {
    /// Arguments of `prepare_job`.
    arguments: Value,
    /// What the hook wants to be told again.
    state: Value,
}

impl Containers {
    /// `None`: it runs on the node itself.
    pub(super) fn of(work: &Work) -> Option<Self> {
        if work.container.is_none() && work.services.is_empty() {
            return None;
        }
        let described = |image: &String| json!({ "image": image, "userMountVolumes": [], "environmentVariables": {} });
        Some(Self {
            arguments: json!({
                "container": work.container.as_ref().map(described),
                "services": work.services.iter().map(described).collect::<Vec<_>>(),
            }),
            state: json!({}),
        })
    }
}

impl Job {
    /// "Initialize containers".
    pub(super) async fn prepare(&mut self, containers: &mut Containers) -> Result<()> {
        if self.conclusion != crate::model::Conclusion::Success {
            return Ok(());
        }
        let started_at = Utc::now();
        let answer = self
            .hook_of(containers, "prepare_job", &containers.arguments)
            .await?;
        if let Some(state) = answer.as_ref().and_then(|answer| answer.get("state")) {
            containers.state = state.clone();
        }
        // The one field that it must have.
        let alpine = answer
            .as_ref()
            .and_then(|answer| answer.get("isAlpine")?.as_bool());
        self.note("Initialize containers", started_at, alpine.is_some());
        Ok(())
    }

    /// The step, inside.
    pub(super) async fn step_in(&mut self, containers: &Containers, script: &Path) -> Result<bool> {
        let arguments = json!({
            "entryPoint": "bash",
            "entryPointArgs": ["-e", script],
            "environmentVariables": {},
            "prependPath": "",
            "workingDirectory": self.environment.workspace,
        });
        let answer = self
            .hook_of(containers, "run_script_step", &arguments)
            .await?;
        Ok(answer.is_some())
    }

    /// "Stop containers", whatever came before.
    pub(super) async fn clean_up(&mut self, containers: &Containers) -> Result<()> {
        let started_at = Utc::now();
        let answer = self
            .hook_of(containers, "cleanup_job", &Value::Null)
            .await?;
        self.note("Stop containers", started_at, answer.is_some());
        Ok(())
    }

    /// What the hook leaves in its response file, or `null`. `None`: it failed.
    async fn hook_of(
        &mut self,
        containers: &Containers,
        command: &str,
        arguments: &Value,
    ) -> Result<Option<Value>> {
        let hook =
            std::env::var_os("ACTIONS_RUNNER_CONTAINER_HOOKS").filter(|hook| !hook.is_empty());
        let Some(hook) = hook else {
            writeln!(self.output, "File not found: 'docker'")?;
            return Ok(None);
        };
        let response = made(self.environment.temporary.join("_runner_hook_responses"))?
            .join(format!("{}.json", uuid::Uuid::new_v4()));
        std::fs::write(&response, "")?;
        let input = json!({
            "command": command,
            "responseFile": response,
            "args": arguments,
            "state": containers.state,
        });
        if !self.run(Path::new(&hook), &input.to_string()).await? {
            writeln!(
                self.output,
                "Custom container implementation failed with error: The hook script at '{}' running command '{command}' \
                 did not execute successfully. Please contact your self hosted runner administrator.",
                hook.display()
            )?;
            return Ok(None);
        }
        let text = std::fs::read_to_string(&response).unwrap_or_default();
        Ok(Some(serde_json::from_str(&text).unwrap_or_default()))
    }
}
