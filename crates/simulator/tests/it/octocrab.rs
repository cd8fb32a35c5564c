//! octocrab, the client of the `github` crate, reads the simulator's answers.

use octocrab::models::{InstallationId, RunnerGroupId};

use crate::{APP_ID, APP_PEM, Sim};

#[tokio::test]
async fn octocrab_understands_the_answers() {
    let sim = Sim::start();
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(APP_PEM.as_bytes()).unwrap();
    let app = ::octocrab::Octocrab::builder()
        .base_uri(&sim.base)
        .unwrap()
        .app(APP_ID.into(), key)
        .build()
        .unwrap();
    let installation = app
        .apps()
        .get_repository_installation("acme", "widgets")
        .await
        .unwrap();
    let client = app.installation(InstallationId(installation.id.0)).unwrap();
    let repository = client.repos("acme", "widgets").get().await.unwrap();
    assert_eq!(repository.full_name.as_deref(), Some("acme/widgets"));
    let made = client
        .actions()
        .create_repo_jit_runner_config(
            "acme",
            "widgets",
            "o-1",
            RunnerGroupId(1),
            vec!["slurm".into()],
        )
        .send()
        .await
        .unwrap();
    assert_eq!(made.runner.name, "o-1");
    let token = client
        .actions()
        .create_repo_runner_registration_token("acme", "widgets")
        .await
        .unwrap();
    assert!(token.expires_at > chrono::Utc::now());
    let runners = client
        .actions()
        .list_repo_self_hosted_runners("acme", "widgets")
        .send()
        .await
        .unwrap();
    assert_eq!(runners.items.len(), 1);
    client
        .actions()
        .delete_repo_runner("acme", "widgets", made.runner.id)
        .await
        .unwrap();
    let job = sim
        .handle
        .queue(gha_slurm_simulator::request::NewWorkflowJob::of(
            "acme/widgets",
            &["slurm"],
        ))
        .unwrap();
    let run_id = u64::try_from(job.run_id).unwrap();
    let workflows = client.workflows("acme", "widgets");
    let run = workflows.get(run_id.into()).await.unwrap();
    assert_eq!(run.status, "queued");
    let jobs = workflows.list_jobs(run_id.into()).send().await.unwrap();
    assert_eq!(jobs.items[0].labels, ["slurm"]);
}
