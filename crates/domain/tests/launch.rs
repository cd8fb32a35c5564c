//! Transitions that no random schedule reaches, because nothing in the product asks for them: they guard the rules on their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{
    Admission, Applied, Caller, Context, Effect, Happening, MOST_ATTEMPTS, NewLaunch, Outcome,
    Phase, Rejected, RunnerMode, SlurmReport, Why,
};
use gha_slurm_domain::{
    ClassId, Launch, LaunchId, LaunchState, RepositoryId, RunnerId, SlurmJobId, SlurmState,
    WorkflowJobId,
};
use uuid::Uuid;

const WANTED: Admission = Admission {
    refusal: None,
    demand: 1,
    redeemed: 0,
};

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn planned() -> Launch {
    let new = NewLaunch {
        id: LaunchId(Uuid::from_u128(1)),
        class: ClassId(1),
        repository: RepositoryId(1),
        cause: WorkflowJobId(1),
        traceparent: None,
        not_before: now(),
        verify_demand: false,
    };
    Launch::planned(new, now())
}

fn after(launch: &Launch, happening: Happening) -> Result<Launch, Rejected> {
    let Applied { launch, .. } = launch.apply(happening, Context { demand: 1 }, now())?;
    Ok(launch)
}

fn call(restart_count: i32, admission: Admission) -> Happening {
    Happening::CalledBack {
        caller: Caller {
            slurm_job: Some("77".parse::<SlurmJobId>().unwrap()),
            restart_count,
            node: Some("n1".into()),
        },
        mode: RunnerMode::Jit,
        admission,
        runner: RunnerId(Uuid::from_u128(2)),
        name: "gha-slurm-test".into(),
    }
}

fn redeeming() -> Launch {
    after(&planned(), call(0, WANTED)).unwrap()
}

fn minted(attempt: u32) -> Happening {
    Happening::Minted {
        attempt,
        github_id: Some(900),
        progress_token_hash: vec![1],
    }
}

fn registered() -> Launch {
    after(&redeeming(), minted(1)).unwrap()
}

fn progressed(launch: &Launch, phase: Phase) -> Launch {
    after(launch, Happening::Progressed { phase, at: None }).unwrap()
}

#[test]
fn what_has_a_runner_token_is_never_withdrawn_without_github() {
    let listening = progressed(&registered(), Phase::Listening);
    let busy = progressed(&listening, Phase::WorkflowJobStarted { run: None });
    for (launch, stage) in [
        (registered(), LaunchState::Registered),
        (listening, LaunchState::Listening),
        (busy, LaunchState::Busy),
    ] {
        assert_eq!(launch.state.stage(), stage);
        for why in [Why::NoDemand, Why::TokenExpiring, Why::MappedToAnother] {
            let result = after(&launch, Happening::NotWanted(why));
            assert_eq!(result, Err(Rejected::Late), "{stage:?}");
        }
    }
}

#[test]
fn a_late_answer_about_an_earlier_registration_ends_nothing() {
    let again = after(&registered(), call(0, WANTED)).unwrap();
    let late = after(&again, Happening::Deregistered { attempt: 1 });
    assert_eq!(late, Err(Rejected::Late));
    let over = after(&again, Happening::Deregistered { attempt: 2 }).unwrap();
    let outcome = over.over().map(|over| over.outcome.clone());
    assert_eq!(outcome, Some(Outcome::Withdrawn { why: Why::NoDemand }));
}

#[test]
fn what_github_let_go_was_withdrawn_for_the_planners_reason() {
    let why = |launch: &Launch| {
        let gone = after(launch, Happening::Deregistered { attempt: 1 }).unwrap();
        gone.over().map(|over| over.outcome.clone())
    };
    let idle = progressed(&registered(), Phase::Listening);
    let marked = after(&idle, Happening::ReleaseWanted(Why::MappedToAnother)).unwrap();
    let mapped = Outcome::Withdrawn {
        why: Why::MappedToAnother,
    };
    assert_eq!(why(&marked), Some(mapped));
    // Wanted after all, and then not again: for the reason of then.
    let wanted = after(&marked, Happening::ReleaseNotWanted).unwrap();
    let again = after(&wanted, Happening::ReleaseWanted(Why::NoDemand)).unwrap();
    assert_eq!(why(&again), Some(Outcome::Withdrawn { why: Why::NoDemand }));
}

#[test]
fn a_repeated_call_that_is_refused_leaves_the_runner_alone() {
    let refused = Admission {
        refusal: Some(Why::MappedToAnother),
        ..WANTED
    };
    for launch in [redeeming(), registered()] {
        let result = after(&launch, call(0, refused.clone()));
        assert_eq!(
            result,
            Err(Rejected::Gone(Why::MappedToAnother.explained()))
        );
    }
    // A first call ends the launch: nothing is registered for it.
    let over = after(&planned(), call(0, refused)).unwrap();
    assert_eq!(over.state.stage(), LaunchState::Over);
}

/// The user of a pending Slurm job can read its script, and with it the launch token.
#[test]
fn a_launch_token_is_good_once_slurm_has_started_its_job() {
    let accepted = |slurm_job: Option<&str>| {
        let happening = Happening::Accepted {
            cluster: "main".into(),
            slurm_job: slurm_job.and_then(|job| job.parse().ok()),
            token_expires_at: now() + TimeDelta::hours(25),
        };
        after(&planned(), happening).unwrap()
    };
    let reported = |state| {
        let report = SlurmReport::new(state);
        let happening = Happening::SlurmReported {
            report,
            slurm_job: None,
            exit_code: None,
            ended_at: None,
        };
        after(&accepted(Some("77")), happening).unwrap()
    };
    let not_started = Err(Rejected::NotStarted("77".parse().unwrap()));
    for launch in [accepted(Some("77")), reported(SlurmState::Pending)] {
        assert_eq!(after(&launch, call(0, WANTED)), not_started);
        // What nothing waits for gives its node back at once.
        let unwanted = Admission {
            demand: 0,
            ..WANTED
        };
        let over = after(&launch, call(0, unwanted)).unwrap();
        assert_eq!(over.state.stage(), LaunchState::Over);
    }
    let running = reported(SlurmState::Running);
    assert!(after(&running, call(0, WANTED)).is_ok());
    // An agent of the original contract tells nothing, and the launcher may not have stored yet what the agent answered.
    for launch in [accepted(None), planned()] {
        assert!(after(&launch, call(0, WANTED)).is_ok());
    }
    // The original contract does not say which Slurm job calls: the launch's own.
    let mut nameless = call(0, WANTED);
    if let Happening::CalledBack { caller, .. } = &mut nameless {
        caller.slurm_job = None;
    }
    let redeemed = after(&running, nameless.clone()).unwrap();
    let bound_to = &redeemed.runner().unwrap().bound_to;
    assert_eq!(bound_to.slurm_job, Some("77".parse().unwrap()));
    assert!(matches!(
        after(&redeemed, nameless),
        Err(Rejected::Conflict(_))
    ));
}

#[test]
fn a_restarted_slurm_job_gets_no_second_runner() {
    let over = after(&registered(), call(1, WANTED)).unwrap();
    let outcome = over.over().map(|over| over.outcome.clone());
    assert_eq!(outcome, Some(Outcome::Restarted));
}

/// Any process of the same user can read the progress token, and report a workflow job with it.
#[test]
fn only_github_spares_a_runner_that_should_have_work() {
    let listening = progressed(&registered(), Phase::Listening);
    let busy = progressed(&listening, Phase::WorkflowJobStarted { run: None });
    let deregister_at = |launch: &Launch| launch.runner().unwrap().deregister_at;
    let ended = |launch: &Launch, is_reported_by_slurm: bool| {
        let happening = if is_reported_by_slurm {
            Happening::SlurmReported {
                report: SlurmReport::new(SlurmState::Completed),
                slurm_job: None,
                exit_code: Some(0),
                ended_at: None,
            }
        } else {
            let phase = Phase::Finished {
                outcome: Outcome::Idle,
                log_tail: None,
            };
            Happening::Progressed { phase, at: None }
        };
        after(launch, happening).unwrap()
    };
    let named = after(&busy, Happening::Attributed(WorkflowJobId(1))).unwrap();
    for is_reported_by_slurm in [true, false] {
        let over = ended(&busy, is_reported_by_slurm);
        assert!(deregister_at(&over).is_some());
        let over = after(&over, Happening::Attributed(WorkflowJobId(1))).unwrap();
        assert_eq!(deregister_at(&over), None);
        assert_eq!(deregister_at(&ended(&named, is_reported_by_slurm)), None);
    }
    for launch in [&busy, &ended(&busy, true)] {
        let unknown = after(launch, Happening::AttributionGivenUp).unwrap();
        assert_eq!(deregister_at(&unknown), Some(now()));
        assert!(!unknown.is_supply());
        let refused = after(&unknown, Happening::DeregistrationRefused).unwrap();
        assert_eq!(deregister_at(&refused), None);
    }
    // What GitHub let go had no workflow job: another runner takes its place.
    let gone = after(&busy, Happening::Deregistered { attempt: 1 }).unwrap();
    assert_eq!((deregister_at(&gone), gone.is_supply()), (None, false));
    // A runner that the planner does not want stays marked for deregistration.
    let unwanted = after(&listening, Happening::ReleaseWanted(Why::NoDemand)).unwrap();
    let busy = progressed(&unwanted, Phase::WorkflowJobStarted { run: None });
    assert_eq!(deregister_at(&busy), Some(now()));
    let refused = after(&busy, Happening::DeregistrationRefused).unwrap();
    assert_eq!(deregister_at(&refused), None);
}

/// Any process of the same user can read the launch token, and redeem it until the runner listens. Each time costs calls to GitHub.
#[test]
fn a_launch_is_redeemed_a_few_times_with_growing_pauses() {
    let demand = Context { demand: 1 };
    let mut launch = planned();
    let mut at = now();
    let mut pauses = Vec::new();
    let applied = loop {
        let applied = match launch.apply(call(0, WANTED), demand, at) {
            Err(Rejected::TooSoon { attempts, wait }) => {
                assert_eq!(launch.runner().unwrap().mint_attempt, attempts);
                at += wait;
                pauses.push(wait.num_seconds());
                continue;
            }
            applied => applied.unwrap(),
        };
        if applied.launch.over().is_some() {
            break applied;
        }
        launch = applied.launch;
        // Whether an attempt completes, or is lost in between.
        if launch.runner().unwrap().mint_attempt.is_multiple_of(2) {
            let attempt = launch.runner().unwrap().mint_attempt;
            launch = after(&launch, minted(attempt)).unwrap();
        }
    };
    let runner = launch.runner().unwrap();
    assert_eq!(runner.mint_attempt, MOST_ATTEMPTS);
    assert_eq!(pauses, [11, 10, 20, 40, 80, 160, 320]);
    let over = applied.launch.over().unwrap();
    assert_eq!(over.outcome, Outcome::RedeemedTooOften);
    assert_eq!(over.runner.as_ref().unwrap().deregister_at, Some(at));
    assert!(!applied.launch.is_supply());
    let words = over.outcome.explained();
    assert!(applied.effects.contains(&Effect::ClassFailed(words)));
    assert!(applied.effects.contains(&Effect::Replan));
    let again = applied.launch.apply(call(0, WANTED), demand, at);
    assert!(matches!(again, Err(Rejected::Gone(_))), "{again:?}");
}

/// Who runs as the same user may redeem a launch token again, and report with every progress token, until the runner listens.
#[test]
fn no_node_makes_a_timeline_long() {
    let mut launch = planned();
    let mut entries = 0;
    let mut tell_at = |launch: &mut Launch, happening: Happening, at| {
        if let Ok(applied) = launch.apply(happening, Context { demand: 1 }, at) {
            let shown = applied.effects.iter();
            entries += shown.filter(|e| matches!(e, Effect::Timeline(_))).count();
            *launch = applied.launch;
        }
    };
    let phases = [
        Phase::SetUp { node: None },
        Phase::Listening,
        Phase::WorkflowJobStarted { run: None },
    ];
    for attempt in 1..=MOST_ATTEMPTS {
        let at = now() + TimeDelta::hours(attempt.into());
        tell_at(&mut launch, call(0, WANTED), at);
        tell_at(&mut launch, minted(attempt), at);
        let phase = Phase::SetUp { node: None };
        tell_at(&mut launch, Happening::Progressed { phase, at: None }, at);
    }
    let mut tell = |launch: &mut Launch, happening| tell_at(launch, happening, now());
    for round in 0..1000 {
        let phase = phases[(round + 1) % 3].clone();
        tell(&mut launch, Happening::Progressed { phase, at: None });
    }
    for _ in 0..1000 {
        let phase = Phase::Finished {
            outcome: Outcome::Idle,
            log_tail: None,
        };
        tell(&mut launch, Happening::Progressed { phase, at: None });
    }
    assert_eq!(launch.state.stage(), LaunchState::Over);
    assert!(entries <= 50, "{entries}");
}
