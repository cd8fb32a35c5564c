//! What people see: append-only entries.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::timeline::Entry;
use gha_slurm_domain::{LaunchId, WorkflowJobId};

use crate::pool::StorageError;
use crate::schema::timeline;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A workflow job.
    WorkflowJob(WorkflowJobId),
    /// A launch or its runner.
    Launch(LaunchId),
}

#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = timeline, treat_none_as_default_value = false)]
pub(crate) struct Row {
    recorded_at: DateTime<Utc>,
    happened_at: DateTime<Utc>,
    kind: &'static str,
    detail: String,
    workflow_job_id: Option<i64>,
    launch_id: Option<uuid::Uuid>,
    log_tail: Option<String>,
}

impl Row {
    pub(crate) fn new(about: About, entry: &Entry, now: DateTime<Utc>) -> Self {
        let Entry {
            kind,
            happened_at,
            detail,
            log_tail,
        } = entry;
        // Postgres text holds no NUL.
        let text = |text: &str| text.replace('\0', "");
        let (workflow_job_id, launch_id) = match about {
            About::WorkflowJob(id) => (Some(id.0), None),
            About::Launch(id) => (None, Some(id.0)),
        };
        Self {
            recorded_at: now,
            happened_at: *happened_at,
            kind: kind.as_str(),
            detail: text(detail),
            workflow_job_id,
            launch_id,
            log_tail: log_tail.as_deref().map(text),
        }
    }
}

/// Appends entries about one thing.
pub async fn append(
    conn: &mut AsyncPgConnection,
    about: About,
    entries: &[Entry],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| Row::new(about, entry, now))
        .collect();
    append_rows(conn, &rows).await
}

pub(crate) async fn append_rows<C>(conn: &mut C, rows: &[Row]) -> Result<(), StorageError>
where
    C: diesel_async::AsyncConnectionCore<Backend = diesel::pg::Pg>,
{
    let insert = diesel::insert_into(timeline::table);
    match rows {
        [] => 0,
        // diesel keeps the prepared statement of this one, not of one whose length differs.
        [row] => insert.values(row).execute(conn).await?,
        rows => insert.values(rows).execute(conn).await?,
    };
    Ok(())
}
