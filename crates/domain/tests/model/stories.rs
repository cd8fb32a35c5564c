//! Schedules that went wrong once, shrunk, each named after what must hold. `story::told` tells one, step by step.

use crate::story::holds;
use crate::world::Action;
use crate::world::Kind::{
    Cancel, CancelJob, ChangePolicy, ChangeStanding, Compare, Crash, Deliver, DeliverTwice, Forget,
    Hours, Minutes, NodeSteps, Queue, Start, Step, StepInTrouble, StepUnanswered, Submit, Watch,
};

/// Two launchers submit a launch, since the first was slow: one is refused, the other accepted.
#[test]
fn what_is_accepted_after_it_was_refused_is_cancelled() {
    holds(&[
        Action(ChangePolicy, 0),
        Action(Queue, 0),
        Action(Deliver, 0),
        Action(Submit, 0),
        Action(Minutes, 0),
        Action(Submit, 0),
        Action(Step, 0),
    ]);
}

/// The same, but the agent's answer to the second is lost.
#[test]
fn what_may_have_been_accepted_after_it_was_refused_is_cancelled() {
    holds(&[
        Action(ChangePolicy, 0),
        Action(Queue, 0),
        Action(Deliver, 0),
        Action(Submit, 0),
        Action(Minutes, 0),
        Action(Submit, 0),
        Action(Step, 0),
        Action(ChangePolicy, 0),
        Action(StepUnanswered, 0),
    ]);
}

const ANSWER_LOST_THEN_REDEEMED_AGAIN: [Action; 13] = [
    Action(Queue, 0),
    Action(DeliverTwice, 0),
    Action(Submit, 0),
    Action(Step, 0),
    Action(Start, 0),
    Action(NodeSteps, 0),
    Action(NodeSteps, 0),
    Action(StepUnanswered, 1),
    Action(Step, 2),
    Action(Compare, 0),
    Action(Watch, 0),
    Action(StepUnanswered, 2),
    Action(Step, 1),
];

/// The node redeems again, the broker is killed before it has deleted the first registration, and Slurm loses the node.
#[test]
fn a_lost_launch_leaves_no_registration_of_an_earlier_attempt() {
    let mut story = ANSWER_LOST_THEN_REDEEMED_AGAIN.to_vec();
    story.extend([Action(Forget, 0), Action(Crash, 39)]);
    holds(&story);
}

/// The same, but the launch is withdrawn.
#[test]
fn a_withdrawn_launch_leaves_no_registration_of_an_earlier_attempt() {
    let mut story = ANSWER_LOST_THEN_REDEEMED_AGAIN.to_vec();
    story.extend([Action(Crash, 39), Action(ChangeStanding, 0)]);
    holds(&story);
}

/// A call of the node that was on its way for long reaches the broker when the node has its runner already. GitHub is in trouble, so
/// nothing comes of it but another attempt; then the launch is not wanted any more.
#[test]
fn a_runner_is_not_withdrawn_because_a_late_call_began_another_attempt() {
    holds(&[
        Action(Queue, 0),
        Action(Deliver, 0),
        Action(Submit, 0),
        Action(CancelJob, 0),
        Action(Queue, 0),
        Action(Deliver, 1),
        Action(Submit, 0),
        Action(Step, 0),
        Action(Deliver, 0),
        Action(Step, 0),
        Action(Watch, 0),
        Action(Hours, 0),
        Action(Queue, 3),
        Action(DeliverTwice, 0),
        Action(StepUnanswered, 0),
        Action(Submit, 0),
        Action(Step, 0),
        Action(Step, 0),
        Action(Step, 0),
        Action(Start, 0),
        Action(NodeSteps, 0),
        Action(NodeSteps, 0),
        Action(Step, 2),
        Action(Step, 2),
        Action(Step, 2),
        Action(Step, 1),
        Action(Step, 0),
        Action(Cancel, 0),
        Action(StepInTrouble, 1),
    ]);
}
