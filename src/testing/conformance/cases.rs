//! The list of all cases: one place that names them, for the suite and for the tests that are made of
//! it.

/// Calls a macro with all groups of cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __storage_cases {
    ($with:path) => {
        $with! {
            create {
                a_new_run_is_there_as_it_was_given,
                what_is_not_given_is_not_there,
                an_id_that_is_taken_says_whose_it_is,
                an_id_that_is_taken_changes_nothing,
                an_id_stays_taken_when_its_run_has_finished,
                the_same_run_added_twice_is_there_once,
                the_beginning_of_a_journal_counts,
                a_run_may_begin_with_any_holder,
                a_run_that_begins_parked_is_claimed_when_it_is_due,
                ids_differ_by_every_letter,
                ids_have_any_letters_that_names_may_have,
                ids_are_as_long_as_names_may_be,
                a_run_that_is_not_there_has_nothing,
                an_empty_storage_is_empty,
            }
            commit {
                events_are_appended_in_order,
                everything_changes_that_a_commit_names,
                a_commit_without_events_changes_the_rest,
                every_status_is_kept,
                every_holder_is_kept,
                another_run_is_not_touched,
                the_same_commit_twice_is_one,
                commits_follow_each_other,
                nobody_writes_to_a_run_that_is_not_there,
                a_refused_commit_appends_nothing,
                a_refused_commit_leaves_the_status,
                a_refused_commit_leaves_the_holder,
                a_refused_commit_answers_nothing,
                a_refused_commit_releases_nothing,
                a_refused_end_releases_nothing,
                a_refused_commit_leaves_recoveries,
                a_refused_commit_of_everything_changes_nothing,
            }
            fence {
                the_holder_writes_at_the_right_length,
                another_owner_does_not_write_to_a_held_run,
                owners_are_told_apart_by_all_their_bits,
                anybody_writes_to_a_parked_run_at_the_right_length,
                anybody_writes_to_a_run_with_a_time_at_the_right_length,
                anybody_writes_to_a_finished_run_at_the_right_length,
                anybody_writes_to_a_run_set_aside_at_the_right_length,
                who_was_taken_over_does_not_write,
                who_was_taken_over_does_not_write_after_a_beat,
                who_was_taken_over_and_has_it_again_writes,
                who_was_called_gone_writes_until_the_run_is_taken,
                a_retired_holder_writes_until_the_run_is_taken,
                a_holder_that_has_never_beaten_writes,
                who_takes_a_parked_run_by_a_commit_keeps_others_out,
                who_parks_a_run_has_no_more_right_to_it_than_others,
                a_commit_may_hand_a_run_over,
                a_commit_without_events_is_fenced_by_owner,
            }
            owners {
                each_beat_counts_one_further,
                a_beat_tells_everybody_who_is_alive,
                a_beat_of_one_is_none_of_another,
                who_is_alive_keeps_its_runs,
                the_first_beat_keeps_runs_from_then_on,
                nobody_is_given_what_it_holds,
                who_has_retired_is_not_alive,
                who_retires_gives_all_its_runs_away,
                who_retires_without_a_beat_gives_its_runs_away,
                who_retires_leaves_others_alive,
                who_is_called_gone_is_gone,
                who_has_beaten_since_is_not_gone,
                a_beat_that_was_never_is_not_the_last,
                each_of_several_is_gone_by_its_own_beat,
                who_is_gone_stays_gone,
                a_claim_that_takes_nothing_calls_gone_all_the_same,
                who_beats_after_it_was_gone_is_alive_again,
                beats_count_on_after_an_owner_was_gone,
                an_unknown_owner_may_be_called_gone,
                nothing_of_a_gone_owner_is_free_that_it_does_not_hold,
            }
            claim {
                a_parked_run_is_given_when_it_is_due,
                a_time_is_due_to_the_microsecond,
                a_parked_run_without_a_time_is_never_due,
                first_and_last_times_are_due,
                a_parked_run_with_a_message_is_given_at_once,
                a_finished_run_with_a_message_is_given,
                a_message_that_came_before_a_run_was_parked_counts,
                an_answered_message_is_no_reason,
                one_of_two_messages_left_is_a_reason,
                a_run_is_given_to_one_owner_only,
                a_run_given_back_is_given_again,
                a_claim_changes_only_the_holder,
                no_more_are_given_than_were_asked_for,
                every_run_is_given_in_batches,
                two_claimers_share_what_there_is,
                everything_free_is_given_when_there_is_room,
                a_claim_by_name_gives_only_that_run,
                a_claim_by_name_gives_a_parked_run_before_it_is_due,
                a_claim_by_name_gives_a_finished_run_only_with_a_message,
                a_claim_by_name_takes_from_who_is_gone,
                a_clock_that_goes_back_takes_nothing_back,
            }
            recoveries {
                taking_from_who_is_gone_counts,
                taking_from_who_never_lived_counts,
                taking_from_who_has_retired_does_not_count,
                every_time_counts,
                a_parked_run_is_not_recovered,
                a_run_set_aside_keeps_its_count,
                a_commit_that_has_recovered_sets_it_to_none,
                another_commit_leaves_the_count,
                a_claim_by_name_counts_the_same,
                each_run_has_its_own_count,
            }
            due {
                held_and_finished_runs_are_not_due,
                the_earliest_is_told,
                a_run_set_aside_is_due_at_its_time,
                what_was_claimed_is_not_due,
                a_message_makes_a_parked_run_due,
                a_message_makes_a_finished_run_due,
                a_message_does_not_make_a_held_run_due,
                a_commit_moves_it,
                an_answer_takes_it_back,
                asking_changes_nothing,
            }
            aside {
                a_run_set_aside_is_nobody_s_and_says_why,
                the_rest_of_a_run_set_aside_is_untouched,
                a_run_set_aside_is_given_at_its_time,
                a_message_does_not_bring_it_back_sooner,
                a_message_from_before_does_not_bring_it_back_sooner,
                a_claim_by_name_brings_it_back_sooner,
                only_the_holder_sets_a_run_aside,
                who_was_taken_over_sets_nothing_aside,
                what_nobody_holds_is_not_set_aside,
                a_problem_is_forgotten_when_somebody_has_the_run,
                a_problem_is_forgotten_by_a_commit,
                a_run_is_set_aside_again_for_another_reason,
                a_run_set_aside_keeps_its_locks,
                only_what_is_set_aside_has_a_problem,
            }
            messages {
                messages_are_kept_oldest_first,
                numbers_grow,
                numbers_grow_over_answers,
                a_message_is_in_one_inbox_only,
                a_message_stays_until_it_is_answered,
                an_answered_message_never_comes_back,
                answers_take_what_they_name_and_no_more,
                nobody_writes_to_who_is_not_there,
                messages_reach_runs_whoever_holds_them,
                a_message_changes_nothing_else,
                a_message_may_come_between_two_commits,
                equal_messages_are_two,
            }
            answers {
                a_message_that_was_taken_is_answered_well,
                every_rejection_comes_back_as_it_was,
                a_message_that_waits_has_no_answer,
                a_message_that_never_was_has_no_answer,
                an_answer_is_its_own_run_s,
                the_last_answers_are_kept,
                the_last_answers_are_kept_over_many_commits,
                answers_of_other_runs_push_none_out,
                an_answer_outlives_its_run,
                the_first_answer_stays,
                a_run_without_messages_answers_nothing,
            }
            held {
                all_that_an_owner_holds_is_named_by_id,
                what_others_or_nobody_hold_is_not_named,
                pages_follow_each_other_and_come_to_an_end,
                what_is_held_moves_with_who_takes_over,
            }
            mail {
                held_runs_with_messages_are_named,
                mail_is_for_the_holder_only,
                what_nobody_holds_is_nobody_s_mail,
                no_more_is_named_than_was_asked_for,
                mail_is_gone_when_all_is_answered,
                mail_moves_with_who_takes_over,
                mail_comes_with_a_claimed_run,
                mail_goes_with_a_parked_run,
                mail_goes_with_a_run_set_aside,
                mail_is_handed_over_with_a_run,
                a_message_that_is_answered_as_a_run_moves_is_no_mail,
            }
            locks {
                one_step_holds_a_mutex,
                another_step_of_the_same_run_is_another,
                locks_of_other_names_are_free,
                names_of_locks_have_any_letters,
                so_many_hold_a_lock_as_it_allows,
                any_number_hold_a_lock_without_a_limit,
                a_step_is_given_again_what_it_holds,
                a_step_that_asks_again_takes_one_place,
                all_locks_are_given_or_none,
                nothing_is_charged_for_what_was_not_given,
                several_locks_are_held_together,
                nothing_asked_is_given,
                a_commit_releases_the_steps_that_it_names,
                the_same_step_of_another_run_keeps_its_locks,
                the_end_of_a_run_releases_everything,
                a_run_that_has_ended_is_given_nothing,
                only_who_holds_a_run_is_given_locks,
                a_run_that_nobody_holds_is_given_nothing,
                who_asks_from_another_length_is_given_nothing,
                a_refused_question_costs_nothing,
                steps_of_nothing_are_given_nothing,
                the_end_of_one_run_releases_nothing_of_another,
                locks_are_held_while_a_run_is_parked,
                locks_are_held_when_a_run_is_taken_over,
            }
            rates {
                so_many_are_given_at_once,
                then_they_are_given_evenly,
                a_refusal_costs_nothing,
                time_that_passes_gives_no_more_than_all_at_once,
                a_rate_is_one_for_all_runs,
                who_holds_it_pays_once,
                releasing_gives_nothing_back,
                rates_of_other_names_are_apart,
                a_rate_may_have_a_limit_too,
                who_wants_no_rate_leaves_it_as_it_is,
                a_rate_is_exact_to_the_microsecond,
                a_clock_that_goes_back_gives_nothing_for_free,
            }
            list {
                the_newest_come_first,
                of_the_same_time_ids_go_backwards,
                changes_do_not_move_a_run,
                they_are_filtered_by_workflow,
                they_are_filtered_by_status,
                they_are_filtered_by_whether_they_have_ended,
                a_list_goes_on_behind_a_run,
                filters_follow_changes,
                both_filters_hold,
                no_more_are_listed_than_were_asked_for,
                a_summary_tells_what_became_of_a_run,
                the_beginning_of_a_journal_is_in_the_summary,
                a_run_keeps_the_name_of_the_workflow_it_was_added_with,
                times_are_kept_to_the_microsecond,
            }
            payload {
                empty_values,
                plain_values,
                a_text_of_a_mebibyte,
                the_null_letter,
                control_letters,
                quotes_and_escapes,
                letters_beyond_the_first_plane,
                integers_beyond_what_floats_hold,
                the_first_and_last_integers,
                floats_at_their_limits,
                zero_below_zero,
                values_as_deep_as_they_may_be,
                ten_thousand_keys,
                the_order_of_keys,
                keys_of_any_letters,
                texts_that_look_like_something_else,
                times_at_their_limits,
                names_at_their_longest,
                users_and_keys_of_metadata,
                one_value_in_many_places,
            }
            kinds {
                every_event_comes_back_from_a_commit,
                every_event_comes_back_from_the_beginning,
                every_message_comes_back,
                a_definition_comes_back_with_all_that_it_says,
                runs_of_one_name_keep_their_own_definitions,
            }
            snapshots {
                a_snapshot_comes_back_as_it_was,
                a_run_has_none_before_the_first,
                what_is_loaded_is_what_it_does_not_know,
                the_last_is_given,
                it_stays_whatever_becomes_of_the_run,
                each_run_has_its_own,
                a_refused_commit_leaves_it,
                what_may_be_forgotten_is_told_no_more,
                all_of_it_may_be_forgotten,
                what_was_forgotten_stays_so,
                lengths_count_what_is_forgotten,
                what_people_did_is_kept,
                what_is_kept_stays_over_many_snapshots,
                events_are_told_in_pages,
                the_beginning_of_a_run_is_told,
                snapshots_stay_when_it_is_opened_again,
            }
            purge {
                what_ended_long_enough_ago_goes,
                a_time_counts_to_the_microsecond,
                what_is_beyond_a_number_goes,
                of_equal_times_the_id_decides,
                either_reason_is_enough,
                only_what_has_finished_goes,
                runs_that_go_on_do_not_count,
                what_has_a_message_stays,
                a_run_that_goes_on_again_stays,
                one_workflow_may_be_meant,
                no_more_go_than_were_asked_for,
                many_go_in_batches,
                nothing_of_a_removed_run_is_there,
                others_are_not_touched,
                an_id_is_taken_until_it_is_cleared,
                a_new_run_has_nothing_of_the_one_before,
                a_workflow_whose_runs_were_removed_can_run_again,
                a_workflow_whose_runs_another_has_removed_can_run_again,
                a_workflow_that_another_run_has_stays,
                what_is_not_cleared_is_named_again,
                only_who_removed_it_is_told,
                what_was_left_and_what_goes_now_share_the_room,
                what_somebody_left_is_told_to_another,
                clearing_what_is_not_to_be_cleared_changes_nothing,
                ids_stay_taken_when_it_is_opened_again,
            }
            reopen {
                everything_is_as_it_was,
                everything_is_as_it_was_after_several_times,
                an_empty_storage_stays_empty,
                ids_stay_taken,
                commits_go_on,
                the_fence_stands,
                runs_are_claimed_when_they_are_due,
                beats_count_on,
                who_has_retired_stays_so,
                who_is_gone_stays_so,
                recoveries_stay,
                numbers_of_messages_grow_on,
                answers_stay,
                mail_stays,
                locks_stay,
                rates_stay,
                lists_stay_in_order,
                a_problem_stays,
                a_refused_commit_leaves_nothing_behind,
                values_stay,
                a_long_journal_stays,
            }
            shared {
                a_new_run_is_seen,
                commits_are_seen_and_fenced,
                messages_are_seen,
                claims_are_seen,
                owners_are_seen,
                locks_are_seen,
                problems_are_seen,
                both_dump_the_same,
            }
            race {
                one_of_many_adds_a_run,
                one_of_many_commits,
                each_run_is_given_to_one,
                each_run_is_recovered_once,
                one_of_many_takes_a_lock,
                no_message_is_lost,
                every_beat_counts,
            }
            scale {
                a_journal_of_ten_thousand_events,
                a_run_that_begins_with_ten_thousand_events,
                no_more_runs_are_listed_at_once_than_the_limit,
                a_thousand_runs_are_claimed,
                a_thousand_runs_are_taken_over,
                a_thousand_messages_of_one_run,
            }
            dropped {
                a_dropped_creation,
                a_dropped_commit,
                a_dropped_message,
                a_dropped_claim,
            }
            writes {
                what_a_step_writes_is_there_with_its_commit,
                several_steps_write_with_one_commit,
                statements_are_done_in_their_order,
                every_kind_of_parameter_is_kept,
                parameters_stand_anywhere,
                data_that_does_not_fit_is_refused,
                a_refusal_names_the_step_and_undoes_those_before_it,
                another_number_of_rows_is_refused,
                a_wrong_statement_is_refused,
                nothing_a_step_says_ends_the_transaction,
                the_fence_comes_before_what_would_be_refused,
                after_a_refusal_the_same_commit_without_the_step_is_good,
                others_do_not_suffer_from_a_refusal,
                what_only_the_end_can_tell_is_refused,
                writes_are_there_after_a_reopening,
                who_takes_no_writes_says_so,
            }
        }
    };
}

/// Makes a test of each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __storage_tests {
    ($($group:ident { $($case:ident,)* })*) => {$(
        mod $group {$(
            #[test]
            fn $case() {
                let factory = super::conformance_factory();
                $crate::testing::conformance::check(
                    stringify!($group),
                    stringify!($case),
                    &factory,
                );
            }
        )*}
    )*};
}

/// Makes a test of each case of the suite, in a module for each group: so that they are named, run
/// beside each other, and can be chosen by name.
///
/// Takes an expression for a [`StorageFactory`](crate::testing::conformance::StorageFactory), made
/// anew for every test; stands outside of functions, once in a module.
/// See [`testing::conformance`](crate::testing::conformance) for an example.
#[macro_export]
macro_rules! storage_conformance {
    ($factory:expr) => {
        fn conformance_factory() -> impl $crate::testing::conformance::StorageFactory {
            $factory
        }

        $crate::__storage_cases!($crate::__storage_tests);
    };
}
