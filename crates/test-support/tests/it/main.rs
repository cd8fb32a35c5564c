//! The test servers themselves.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use gha_slurm_test_support::{
    Folder, PrivatePostgres, PrivateRabbitMq, PrivateSlurm, Process, SLURM_USERS, TestBroker,
    TestDatabase, end_processes_in, free_port, wait_until,
};
use tokio_postgres::NoTls;

const DEADLINE: Duration = Duration::from_secs(30);

async fn rows(url: &str, sql: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let count = client.query_one(sql, &[]).await.unwrap().get(0);
    drop(client);
    driver.await.unwrap().unwrap();
    count
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_test_has_a_migrated_database_of_its_own() {
    let (one, other) = (TestDatabase::create().await, TestDatabase::create().await);
    assert_ne!(one.url(), other.url());
    execute(one.url(), "CREATE TABLE only_here (id bigint)").await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = ";
    assert_eq!(rows(one.url(), &format!("{tables} 'only_here'")).await, 1);
    assert_eq!(rows(other.url(), &format!("{tables} 'only_here'")).await, 0);
    assert_eq!(
        rows(other.url(), &format!("{tables} 'workflow_jobs'")).await,
        1
    );
}

#[tokio::test]
async fn a_killed_postgres_keeps_what_was_committed() {
    let server = PrivatePostgres::start().await;
    let url = server.database("kept").await.unwrap();
    execute(&url, "CREATE TABLE kept AS SELECT generate_series(1, 10)").await;
    server.kill9().await;
    server.restart().await;
    assert_eq!(rows(&url, "SELECT count(*) FROM kept").await, 10);
}

/// As below the home folder of root.
#[tokio::test]
async fn servers_keep_their_data_in_a_folder_that_others_cannot_reach() {
    let closed = tempfile::tempdir().unwrap();
    let open = || {
        let postgres = Folder::kept(&closed.path().join("postgres")).unwrap();
        let rabbitmq = Folder::kept(&closed.path().join("rabbitmq")).unwrap();
        async {
            let broker = PrivateRabbitMq::open(rabbitmq, free_port()).await;
            let postgres = PrivatePostgres::open(postgres, free_port(), true).await;
            (postgres.unwrap(), broker.unwrap())
        }
    };
    let (postgres, broker) = open().await;
    let url = postgres.database("kept").await.unwrap();
    execute(&url, "CREATE TABLE kept AS SELECT generate_series(1, 10)").await;
    drop((postgres, broker));
    let (postgres, _broker) = open().await;
    let url = postgres.database("kept").await.unwrap();
    assert_eq!(rows(&url, "SELECT count(*) FROM kept").await, 10);
}

#[tokio::test]
async fn a_killed_rabbitmq_starts_again() {
    let broker = PrivateRabbitMq::start().await;
    broker.ctl(&["add_vhost", "kept"]).await;
    broker.kill9().await;
    broker.restart().await;
    let vhosts = broker.ctl(&["list_vhosts", "name"]).await;
    assert!(vhosts.lines().any(|line| line == "kept"), "{vhosts}");
}

#[tokio::test]
async fn a_broker_says_what_a_queue_holds() {
    let broker = TestBroker::create().await;
    assert!(broker.amqp_url().contains("/test-"));
    assert_eq!(broker.depth("no-such-queue").await, None);
}

#[tokio::test]
async fn processes_end_with_their_test() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut command = Command::new("sh");
    // The second sleep leaves the process group, as a Slurm job of the local backend does.
    command
        .args([
            "-c",
            "setsid sleep 300 & echo $!; trap 'exit 3' TERM; while :; do sleep 0.1; done",
        ])
        .current_dir(dir.path());
    let mut process = Process::start("sleeper", &command, &log).unwrap();
    let outsider = wait_until("the outsider's process id", DEADLINE, || async {
        process.log().trim().parse::<u32>().ok()
    })
    .await;
    assert_eq!(
        process.stop(DEADLINE).and_then(|status| status.code()),
        Some(3)
    );
    let alive = || {
        std::fs::read_to_string(format!("/proc/{outsider}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(alive());
    end_processes_in(dir.path());
    wait_until("the outsider is gone", DEADLINE, || async { !alive() }).await;
}

#[tokio::test]
async fn a_private_slurm_runs_a_slurm_job_as_its_user_and_survives_its_controller() {
    let Some(slurm) = PrivateSlurm::for_test(2).await else {
        return;
    };
    let submit = [
        "--parsable",
        &format!("--uid={}", SLURM_USERS[0]),
        "--chdir=/",
        "--output=/dev/null",
        "--wrap=id -un; sleep 600",
    ];
    let id = slurm.run("sbatch", &submit).await.unwrap();
    let id = id.trim();
    let state = || async {
        let seen = slurm.run("squeue", &["-h", "-o", "%T %u", "-j", id]).await;
        match seen.as_deref().map(str::trim) {
            Ok("RUNNING games") => Ok(()),
            _ => Err(seen),
        }
    };
    wait_until("it runs", DEADLINE, state).await;
    slurm.stop_controller();
    slurm.start_controller().await.unwrap();
    wait_until("it runs on", DEADLINE, state).await;
}

#[tokio::test]
async fn a_private_slurm_accounts_for_slurm_jobs() {
    let Some(slurm) = PrivateSlurm::for_test_with_accounting(1).await else {
        return;
    };
    let submit = [
        "--parsable",
        &format!("--uid={}", SLURM_USERS[0]),
        "--gres=gpu:1",
        "--comment=ours",
        "--chdir=/",
        "--output=/dev/null",
        "--wrap=true",
    ];
    let id = slurm.run("sbatch", &submit).await.unwrap();
    let words = [
        "--noheader",
        "--parsable2",
        "--allocations",
        "--format=State,Account,AllocTRES",
        "--jobs",
        id.trim(),
    ];
    let accounted = || async {
        let seen = slurm.run("sacct", &words).await;
        match seen.as_deref().map(str::trim) {
            Ok("COMPLETED|builds|billing=1,cpu=1,gres/gpu=1,node=1") => Ok(()),
            _ => Err(seen),
        }
    };
    wait_until("it is accounted for", DEADLINE, accounted).await;
}
