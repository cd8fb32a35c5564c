//! Enums of the domain as Postgres stores them: SQL names states through these types, never as literals.

use std::io::Write;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use gha_slurm_domain::workflow_job::Verdict;
use gha_slurm_domain::{LaunchState, WorkflowJobState};

/// The enum types of the migrations.
pub(crate) mod sql_types {
    macro_rules! postgres_enum {
        ($($name:ident = $postgres:literal;)+) => {
            $(
                #[derive(diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
                #[diesel(postgres_type(name = $postgres))]
                pub struct $name;
            )+
        };
    }

    postgres_enum! {
        LaunchStateSql = "launch_state";
        WorkflowJobStateSql = "workflow_job_state";
        VerdictSql = "verdict";
    }
}

macro_rules! stored_enum {
    ($($stored:ident, $domain:ident, $sql:ident;)+) => {
        $(
            #[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
            #[diesel(sql_type = sql_types::$sql)]
            pub(crate) struct $stored(pub(crate) $domain);

            impl ToSql<sql_types::$sql, Pg> for $stored {
                fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                    out.write_all(self.0.as_str().as_bytes())?;
                    Ok(IsNull::No)
                }
            }

            impl FromSql<sql_types::$sql, Pg> for $stored {
                fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                    let text = std::str::from_utf8(value.as_bytes())?;
                    $domain::parse(text)
                        .map(Self)
                        .ok_or_else(|| format!("unknown {}: {text}", stringify!($domain)).into())
                }
            }
        )+
    };
}

stored_enum! {
    StoredLaunchState, LaunchState, LaunchStateSql;
    StoredWorkflowJobState, WorkflowJobState, WorkflowJobStateSql;
    StoredVerdict, Verdict, VerdictSql;
}

/// These states, as a parameter of SQL.
pub(crate) fn launch_states(states: &[LaunchState]) -> Vec<StoredLaunchState> {
    states.iter().copied().map(StoredLaunchState).collect()
}
