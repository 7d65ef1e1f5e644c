//! What runs made of messages.

use super::given::{A, B, commit};
use super::kinds::there_is_one_of_each;
use super::trial::Trial;
use crate::error::{Problem, Problems};
use crate::journal::{STATUS_SLOTS, SkipReason, StepStatus};
use crate::run::Rejection;
use crate::storage::{ANSWERS_KEPT, Answer, Commit, Holding};

/// One of each, so that a new one has to be put here.
fn place(rejection: &Rejection) -> usize {
    match rejection {
        Rejection::AlreadyStarted => 0,
        Rejection::NotStarted => 1,
        Rejection::Finished => 2,
        Rejection::UnknownStep => 3,
        Rejection::NotReady(_) => 4,
        Rejection::NotRunning(_) => 5,
        Rejection::WrongAttempt { .. } => 6,
        Rejection::Paused => 7,
        Rejection::NotPaused => 8,
        Rejection::Stopping => 9,
        Rejection::NobodyWaits => 10,
        Rejection::Payload(_) => 11,
        Rejection::NoSuchApproval => 12,
        Rejection::NoApprover(_) => 13,
        Rejection::VotedAlready(_) => 14,
        Rejection::Outdated { .. } => 15,
        Rejection::Unsafe(_) => 16,
        Rejection::TooManySignals(_) => 17,
        Rejection::TooLong { .. } => 18,
        Rejection::Misfit(_) => 19,
    }
}
const PLACES: usize = 20;

/// Rejections, at least one of each kind.
pub fn rejections() -> Vec<Rejection> {
    use Rejection as R;
    use StepStatus as S;
    let statuses = [
        S::Pending,
        S::Ready,
        S::Running,
        S::Waiting,
        S::Retrying,
        S::OutcomeUnknown,
        S::Succeeded,
        S::Failed,
        S::Skipped(SkipReason::Condition),
        S::Skipped(SkipReason::Upstream),
        S::Skipped(SkipReason::Operator),
        S::Cancelled,
    ];
    there_is_one_of_each(statuses.into_iter().map(StepStatus::slot), STATUS_SLOTS);
    let mut problems = Problems::default();
    problems.push(Problem::error("a/b", "it is running: ü").hint("stop it"));
    problems.push(Problem::warning("", "odd"));
    let mut all = vec![
        R::Misfit(Problems::default()),
        R::Misfit(problems),
        R::AlreadyStarted,
        R::NotStarted,
        R::Finished,
        R::UnknownStep,
        R::WrongAttempt { expected: u32::MAX, given: 0 },
        R::Paused,
        R::NotPaused,
        R::Stopping,
        R::NobodyWaits,
        R::Payload("\"x\" is not\n\u{0}a number 🦀".into()),
        R::NoSuchApproval,
        R::NoApprover(String::new()),
        R::VotedAlready("ann".into()),
        R::Outdated { now: 2, given: 1 },
        R::Unsafe("step `a`".into()),
        R::TooManySignals(usize::MAX),
        R::TooLong { what: "name".into(), bytes: usize::MAX, limit: 0 },
    ];
    all.extend(statuses.map(R::NotReady));
    all.extend(statuses.map(R::NotRunning));
    there_is_one_of_each(all.iter().map(place), PLACES);
    all
}

#[track_caller]
fn answered(on: &Trial<'_>, name: &str, answers: &[Answer]) -> Vec<u64> {
    let numbers: Vec<u64> = answers.iter().map(|_| on.signal(name, "x")).collect();
    let answers = numbers.iter().copied().zip(answers.iter().cloned()).collect();
    on.commit(name, Commit { answers, ..commit(A, 0) });
    numbers
}

pub(super) fn a_message_that_was_taken_is_answered_well(on: &Trial<'_>) {
    on.held("r", A);
    let numbers = answered(on, "r", &[Ok(())]);
    assert_eq!(on.answer("r", numbers[0]), Some(Ok(())));
}

pub(super) fn every_rejection_comes_back_as_it_was(on: &Trial<'_>) {
    on.held("r", A);
    let answers: Vec<Answer> = rejections().into_iter().map(Err).collect();
    let numbers = answered(on, "r", &answers);
    for (number, answer) in numbers.into_iter().zip(answers) {
        assert_eq!(on.answer("r", number), Some(answer));
    }
}

pub(super) fn a_message_that_waits_has_no_answer(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "x");
    assert_eq!(on.answer("r", number), None);
    on.commit("r", commit(A, 0));
    assert_eq!(on.answer("r", number), None);
}

pub(super) fn a_message_that_never_was_has_no_answer(on: &Trial<'_>) {
    on.held("r", A);
    let numbers = answered(on, "r", &[Ok(())]);
    for number in [0, numbers[0] + 1, i64::MAX as u64, u64::MAX] {
        assert_eq!(on.answer("r", number), None, "{number} was given to nobody");
    }
}

pub(super) fn an_answer_is_its_own_run_s(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    let of_r = answered(on, "r", &[Ok(()), Ok(())]);
    let of_s = answered(on, "s", &[Err(Rejection::Paused)]);
    assert_eq!(on.answer("r", of_r[0]), Some(Ok(())));
    assert_eq!(on.answer("s", of_s[0]), Some(Err(Rejection::Paused)));
}

pub(super) fn the_last_answers_are_kept(on: &Trial<'_>) {
    on.held("r", A);
    let answers: Vec<Answer> =
        (0..ANSWERS_KEPT + 50).map(|number| Err(Rejection::Payload(number.to_string()))).collect();
    let numbers = answered(on, "r", &answers);
    for (number, answer) in numbers.iter().zip(answers).skip(50) {
        assert_eq!(on.answer("r", *number), Some(answer), "it is one of the last");
    }
}

pub(super) fn the_last_answers_are_kept_over_many_commits(on: &Trial<'_>) {
    on.held("r", A);
    let numbers: Vec<u64> =
        (0..ANSWERS_KEPT + 20).flat_map(|_| answered(on, "r", &[Ok(())])).collect();
    for number in &numbers[20..] {
        assert_eq!(on.answer("r", *number), Some(Ok(())));
    }
}

pub(super) fn answers_of_other_runs_push_none_out(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    let first = answered(on, "r", &[Err(Rejection::Finished)]);
    answered(on, "s", &vec![Ok(()); ANSWERS_KEPT + 10]);
    assert_eq!(on.answer("r", first[0]), Some(Err(Rejection::Finished)));
}

pub(super) fn an_answer_outlives_its_run(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "x");
    let (status, holding) = (crate::journal::RunStatus::Succeeded, Holding::Finished);
    let answers = vec![(number, Ok(()))];
    on.commit("r", Commit { answers, status, holding, ..commit(A, 0) });
    assert_eq!(on.answer("r", number), Some(Ok(())));
}

pub(super) fn the_first_answer_stays(on: &Trial<'_>) {
    on.held("r", A);
    let numbers = answered(on, "r", &[Ok(())]);
    let answers = vec![(numbers[0], Err(Rejection::Paused)), (numbers[0] + 7, Ok(()))];
    on.commit("r", Commit { answers, ..commit(A, 0) });
    assert_eq!(on.answer("r", numbers[0]), Some(Ok(())), "it was not in the inbox any more");
    assert_eq!(on.answer("r", numbers[0] + 7), None, "it was never there");
}

pub(super) fn a_run_without_messages_answers_nothing(on: &Trial<'_>) {
    on.held("r", A);
    on.commit("r", Commit { answers: vec![(1, Ok(()))], ..commit(A, 0) });
    assert_eq!(on.answer("r", 1), None);
    on.refuses("r", commit(B, 0));
}
