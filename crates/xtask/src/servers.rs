//! `with-services`: one PostgreSQL and one RabbitMQ for a whole test run, and nothing left running after it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use gha_slurm_test_support::{
    PrivatePostgres, PrivateRabbitMq, SHARED_RABBITMQ, SKIPPED_FILE, end_processes_marked,
    processes_marked, try_wait_until,
};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::skipped;

/// Every process of a run inherits it.
const MARK: &str = "GHA_SLURM_TEST_RUN";

/// How many tests run at once: twice the processors, for tests with servers and services wait more than they compute.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// How much the command yields to the two servers (nice(1)). On few processors a broker that waits its turn among a test's many
/// processes confirms nothing for seconds, and the tests fail at a deadline of the services.
const NICENESS: &str = "5";

/// How long a process of a test may take to end after the run.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `command` with `DATABASE_URL` and [`SHARED_RABBITMQ`] set, ends both servers, and answers the command's exit code.
/// A server that the environment already names is used instead and left alone. A process that the run has left behind is
/// named and ended, and makes the run fail. Tests that were skipped are listed on stderr, and fail a run with
/// `REQUIRE_ROOT_TESTS=1`.
pub(crate) fn run_with(command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mark = uuid::Uuid::new_v4().to_string();
    let skipped_file = tempfile::NamedTempFile::new().context("a temporary file")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let code = runtime.block_on(async {
        let mut command = Command::new("nice");
        command
            .args(["-n", NICENESS, program])
            .args(arguments)
            .env(MARK, &mark)
            .env(SKIPPED_FILE, skipped_file.path());
        run_with_servers(program, command).await
    })?;
    let left = runtime.block_on(async {
        let none_left = || async {
            let left = processes_marked(&mark);
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        try_wait_until("every process of the run has ended", GRACE, none_left).await
    });
    end_processes_marked(&mark);
    let skipped = skipped::report(&std::fs::read_to_string(skipped_file.path())?);
    left?;
    skipped?;
    Ok(code)
}

async fn run_with_servers(program: &str, mut command: Command) -> Result<ExitCode> {
    let given = |name| std::env::var_os(name).is_some();
    let postgres = async {
        if given("DATABASE_URL") {
            None
        } else {
            Some(PrivatePostgres::start().await)
        }
    };
    let rabbitmq = async {
        if given(SHARED_RABBITMQ) {
            None
        } else {
            Some(PrivateRabbitMq::start().await)
        }
    };
    let (postgres, rabbitmq) = tokio::join!(postgres, rabbitmq);
    if let Some(postgres) = &postgres {
        command.env("DATABASE_URL", postgres.url("postgres"));
    }
    if let Some(rabbitmq) = &rabbitmq {
        command.env(SHARED_RABBITMQ, rabbitmq.share());
    }
    if !given(TEST_THREADS) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        command.env(TEST_THREADS, (2 * processors).to_string());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program} by nice(1)"))?;
    // Ctrl-C reaches the command too: it ends, and then the servers do.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = interrupt.recv() => {}
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
