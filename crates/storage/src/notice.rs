//! What one process tells the others through Postgres: `NOTIFY`. Whatever must not be lost is in a table; a notice only says that it is
//! time to look.

use std::time::Duration;

use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::pool::{Database, StorageError};
use crate::prepared::Kept;

/// The server answers within this, or is asked again on another connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A scope is to be planned again.
    Replan,
    /// A node has called back whose Slurm job has not started, as far as is known.
    NodeWaits,
}

impl Notice {
    const ALL: [Self; 2] = [Self::Replan, Self::NodeWaits];

    fn channel(self) -> &'static str {
        match self {
            Self::Replan => "replan",
            Self::NodeWaits => "node_waits",
        }
    }
}

/// Tells all that listen; in a transaction, at its commit.
pub async fn notify(
    conn: &mut AsyncPgConnection,
    notice: Notice,
    about: &str,
) -> Result<(), StorageError> {
    let notify = diesel::sql_query("SELECT pg_notify($1, $2)")
        .bind::<diesel::sql_types::Text, _>(notice.channel())
        .bind::<diesel::sql_types::Text, _>(about);
    Kept(notify).execute(conn).await?;
    Ok(())
}

/// Listens until the connection breaks, calling `heard` for every notice, and for each kind once it listens. Returns the reason it
/// ended; the caller listens again, and looks by itself, since what was said meanwhile is lost.
pub async fn listen(database: &Database, heard: impl Fn(Notice)) -> StorageError {
    let unavailable = |e: tokio_postgres::Error| StorageError::Unavailable(e.to_string());
    let late = || StorageError::Unavailable("no LISTEN connection in time".into());
    let connecting = tokio::time::timeout(PATIENCE, database.server().connect());
    let (client, mut connection) = match connecting.await {
        Ok(Ok(pair)) => pair,
        Ok(Err(e)) => return unavailable(e),
        Err(_) => return late(),
    };
    let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
    let command: String = Notice::ALL
        .map(|notice| format!("LISTEN {};", notice.channel()))
        .concat();
    let subscribe = client.batch_execute(&command);
    tokio::pin!(subscribe);
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    let mut subscribed = false;
    loop {
        tokio::select! {
            result = &mut subscribe, if !subscribed => match result {
                Ok(()) => {
                    subscribed = true;
                    // What was said before we listened.
                    Notice::ALL.into_iter().for_each(&heard);
                }
                Err(e) => return unavailable(e),
            },
            () = &mut deadline, if !subscribed => return late(),
            message = futures_util::StreamExt::next(&mut messages) => match message {
                Some(Ok(tokio_postgres::AsyncMessage::Notification(said))) => {
                    let is_in = |notice: &Notice| notice.channel() == said.channel();
                    Notice::ALL.into_iter().filter(is_in).for_each(&heard);
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return unavailable(e),
                None => return StorageError::Unavailable("the LISTEN connection was closed".into()),
            },
        }
    }
}
