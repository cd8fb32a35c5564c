//! How often Postgres is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use gha_slurm_domain::admission::for_class;
use gha_slurm_domain::launch::{Admission, Caller, Happening, RunnerMode};
use gha_slurm_domain::{LaunchId, RunnerId};
use gha_slurm_storage::launches::{self, Callback};
use gha_slurm_storage::{Database, ScopeLock, StorageError};
use gha_slurm_test_support::TestDatabase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{now, plan, scope_with_queued};

/// Stands between a client and Postgres and counts how often the client speaks after Postgres did: what it sends before it has heard
/// the answer is the same round trip.
#[derive(Default)]
struct Trips {
    count: AtomicU32,
    answered: AtomicBool,
}

impl Trips {
    /// Returns the port to connect to instead.
    async fn before(self: Arc<Self>, host: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&host).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let (asking, answering) = (Arc::clone(&self), Arc::clone(&self));
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 20];
                    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                        if asking.answered.swap(false, Ordering::SeqCst) {
                            asking.count.fetch_add(1, Ordering::SeqCst);
                        }
                        if to_server.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 20];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        // First: the client may speak as soon as it has heard.
                        answering.answered.store(true, Ordering::SeqCst);
                        if to_client.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        port
    }
}

async fn in_callback(
    pool: &Database,
    launch: LaunchId,
    happening: impl Fn(&Callback) -> Happening + Send + Sync,
) {
    pool.for_callback(
        launch,
        async |(mut lock, callback): (ScopeLock<'_>, Callback)| {
            let happening = happening(&callback);
            launches::happen_to(&mut lock, &callback.loaded, happening, now()).await
        },
    )
    .await
    .unwrap_or_else(|error: StorageError| panic!("{error}"))
    .unwrap()
    .unwrap();
}

/// The two transactions of a redemption; between them token-broker registers the runner at GitHub.
async fn redeem(pool: &Database, launch: LaunchId) {
    in_callback(pool, launch, |callback| Happening::CalledBack {
        caller: Caller {
            slurm_job: Some("17".parse().unwrap()),
            restart_count: 0,
            node: Some("n1".into()),
        },
        mode: RunnerMode::Jit,
        admission: Admission {
            refusal: for_class(&callback.standing, &callback.loaded.class.slurm_user, None),
            demand: callback.loaded.class.demand,
            redeemed: callback.loaded.class.redeemed,
        },
        runner: RunnerId(uuid::Uuid::now_v7()),
        name: format!("runner-{launch}"),
    })
    .await;
    in_callback(pool, launch, |_| Happening::Minted {
        attempt: 1,
        github_id: Some(5),
        progress_token_hash: launch.0.as_bytes().to_vec(),
    })
    .await;
}

#[tokio::test]
async fn a_redemption_asks_postgres_six_times_at_most() {
    let database = TestDatabase::create().await;
    let jobs = scope_with_queued(&database.pool(), 10).await;
    let planned = plan(&database.pool(), &jobs).await;
    let trips = Arc::new(Trips::default());
    let (before, name) = database.url().rsplit_once('/').unwrap();
    let (credentials, host) = before.rsplit_once('@').unwrap();
    let port = Arc::clone(&trips).before(host.to_owned()).await;
    let url = format!("{credentials}@127.0.0.1:{port}/{name}");
    let pool = Database::new(&url.into(), None, "test", 1).unwrap();
    let mut counts = Vec::new();
    for launch in planned {
        trips.count.store(0, Ordering::SeqCst);
        redeem(&pool, launch).await;
        counts.push(trips.count.load(Ordering::SeqCst));
    }
    // The first connects and prepares statements. What Postgres answers in pieces can only make a count too high.
    let fewest = counts.iter().skip(1).min().copied().unwrap();
    assert!((1..=6).contains(&fewest), "round trips: {counts:?}");
}
