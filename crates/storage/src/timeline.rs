//! What people see: append-only entries.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{LaunchId, WorkflowJobId};

use crate::pool::StorageError;
use crate::schema::timeline;

/// One entry.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = timeline)]
pub struct Entry {
    at: DateTime<Utc>,
    kind: &'static str,
    detail: String,
    workflow_job_id: Option<i64>,
    launch_id: Option<uuid::Uuid>,
    log_tail: Option<String>,
}

impl Entry {
    /// Something that happened to a workflow job.
    pub fn workflow_job(
        at: DateTime<Utc>,
        id: WorkflowJobId,
        kind: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            at,
            kind,
            detail: detail.into(),
            workflow_job_id: Some(id.0),
            launch_id: None,
            log_tail: None,
        }
    }

    /// Something that happened to a launch or its runner.
    pub fn launch(
        at: DateTime<Utc>,
        id: LaunchId,
        kind: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            at,
            kind,
            detail: detail.into(),
            workflow_job_id: None,
            launch_id: Some(id.0),
            log_tail: None,
        }
    }

    /// With the end of the job script's log.
    #[must_use]
    pub fn log_tail(mut self, tail: Option<String>) -> Self {
        // Postgres text holds no NUL.
        self.log_tail = tail.map(|t| t.replace('\0', ""));
        self
    }
}

/// Appends entries.
pub async fn append(conn: &mut AsyncPgConnection, entries: &[Entry]) -> Result<(), StorageError> {
    let insert = diesel::insert_into(timeline::table);
    match entries {
        [] => 0,
        // diesel keeps the prepared statement of this one, not of one whose length differs.
        [entry] => insert.values(entry).execute(conn).await?,
        entries => insert.values(entries).execute(conn).await?,
    };
    Ok(())
}
