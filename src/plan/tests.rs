use proptest::prelude::*;

use super::*;
use crate::error::Problems;
use crate::id::StepId;

fn plan(ids: &[&str], edges: &[(u32, u32)]) -> Result<ExecutionPlan, Cycle> {
    let edges = edges.iter().map(|&(from, to)| Edge { from, to, kind: EdgeKind::After }).collect();
    ExecutionPlan::new(ids.iter().map(|id| (*id).into()).collect(), edges)
}

#[test]
fn a_fan_out_and_its_fan_in_are_three_batches() {
    let plan = plan(&["s", "x", "y", "z", "e"], &[(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)]);
    assert_eq!(plan.unwrap().batch_ids(), [vec!["s"], vec!["x", "y", "z"], vec!["e"]]);
}

#[test]
fn the_order_of_definition_breaks_ties() {
    let plan = plan(&["b", "a", "d", "c"], &[(1, 2), (0, 3)]).unwrap();
    assert_eq!(plan.batch_ids(), [["b", "a"], ["d", "c"]]);
}

#[test]
fn a_cycle_is_named_in_the_order_of_its_edges() {
    let cycle = plan(&["x", "a", "b", "c"], &[(0, 1), (1, 2), (2, 3), (3, 1)]).unwrap_err();
    assert_eq!(cycle.to_string(), "a → b → c → a");
}

#[test]
fn every_problem_is_reported_at_once() {
    let (a, b, bad): (StepId, StepId, StepId) = ("a".into(), "b".into(), "b/c".into());
    let (own, wrong) = ([StepId::from("a")], [StepId::from("bb")]);
    let steps = [
        PlanStep::new(&a, &own),
        PlanStep::new(&b, &wrong),
        PlanStep::new(&b, &[]),
        PlanStep::new(&bad, &[]),
    ];
    let mut problems = Problems::default();
    assert!(DagResolver::resolve(&steps, "steps", &mut problems).is_none());
    assert_eq!(
        problems.to_string(),
        "steps[2].id: the id `b` is already that of step 1\n\
         steps[3].id: the name `b/c` contains '/'\n\
         steps.a.after: a step cannot depend on itself\n\
         steps.b.after: there is no step `bb` here (did you mean `b`?)\n"
    );
}

#[test]
fn steps_that_nothing_connects_are_a_warning() {
    let ids: Vec<StepId> = (0..9).map(|at| format!("s{at}").into()).collect();
    let after = [ids[0].clone()];
    let mut problems = Problems::default();
    let steps: Vec<PlanStep<'_>> = ids
        .iter()
        .enumerate()
        .map(|(at, id)| PlanStep::new(id, if at == 1 { &after } else { &[] }))
        .collect();
    let plan = DagResolver::resolve(&steps, "steps", &mut problems);
    assert!(plan.is_some() && !problems.has_errors());
    let text = problems.to_string();
    assert!(
        text.contains("not connected with any other step: s2, s3, s4, s5, s6 and 2 more"),
        "{text}"
    );

    let mut alone = Problems::default();
    assert!(DagResolver::resolve(&steps[..1], "steps", &mut alone).is_some());
    assert!(alone.is_empty(), "one step needs no company: {alone}");
}

#[test]
fn edges_that_are_given_twice_count_once_and_rows_are_in_order() {
    let plan = plan(&["a", "b", "c"], &[(1, 2), (0, 2), (1, 2), (0, 1), (0, 2)]).unwrap();
    let before: Vec<u32> = plan.predecessors(2).iter().map(|link| link.step).collect();
    let after: Vec<u32> = plan.successors(0).iter().map(|link| link.step).collect();
    assert_eq!((before, after, plan.edge_count()), (vec![0, 1], vec![1, 2], 3));
}

#[test]
fn a_cycle_is_found_beside_other_mistakes() {
    let ids = ["a", "b", "c"].map(StepId::from);
    let (b, a, nobody) = ([ids[1].clone()], [ids[0].clone()], [StepId::from("nobody")]);
    let steps =
        [PlanStep::new(&ids[0], &b), PlanStep::new(&ids[1], &a), PlanStep::new(&ids[2], &nobody)];
    let mut problems = Problems::default();
    assert!(DagResolver::resolve(&steps, "steps", &mut problems).is_none());
    let text = problems.to_string();
    assert!(text.contains("steps wait for each other: a → b → a"), "{text}");
    assert!(text.contains("there is no step `nobody`"), "{text}");
}

#[test]
fn the_critical_path_is_the_longest_chain() {
    use std::time::Duration;
    let plan = plan(&["a", "b", "c", "d"], &[(0, 1), (0, 2), (1, 3), (2, 3)]).unwrap();
    let time = |step| Duration::from_secs([1, 5, 2, 1][step as usize]);
    let critical = plan.critical_path(time);
    assert_eq!((critical.steps, critical.length.as_secs()), (vec![0, 1, 3], 7));
    assert_eq!(plan.lower_bound(time, 1).as_secs(), 9);
    assert_eq!(plan.graham_bound(time, 2).as_secs(), 8);
}

#[test]
fn hostile_labels_do_not_break_out_of_a_drawing() {
    let hostile = "<script>\"'&\\`;#|";
    let plan = plan(&[hostile, "end"], &[(0, 1)]).unwrap();
    assert!(plan.to_mermaid().contains("n0[\"#60;script#62;#34;'#38;#92;#96;#59;#35;|\"]"));
    assert!(plan.to_dot().contains(r#"label="<script>\"'&\\`;#|""#));
    let svg = plan.to_svg();
    assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&quot;"));
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
}

#[test]
fn edges_other_than_after_are_labelled() {
    let edge = Edge { from: 0, to: 1, kind: EdgeKind::OnFailure };
    let plan = ExecutionPlan::new(vec!["a".into(), "b".into()], vec![edge]).unwrap();
    assert_eq!(
        plan.to_mermaid(),
        "flowchart TD\n  n0[\"a\"]\n  n1[\"b\"]\n  n0 -.->|on_failure| n1\n"
    );
    assert!(plan.to_dot().contains("n0 -> n1 [label=\"on_failure\", style=dashed];"));
}

#[test]
fn a_large_plan_is_drawn_as_an_overview() {
    let ids: Vec<String> = (0..400).map(|i| format!("s{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let svg = plan(&ids, &[(0, 399)]).unwrap().to_svg();
    assert!(svg.contains("batch 1: 399 steps") && svg.len() < 5_000);
}

#[test]
fn a_chain_of_a_million_steps_needs_no_stack() {
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let thread = small.spawn(|| {
        let steps = 1_000_000_u32;
        let ids = (0..steps).map(|i| StepId::from(i.to_string())).collect();
        let mut edges: Vec<Edge> =
            (1..steps).map(|to| Edge { from: to - 1, to, kind: EdgeKind::After }).collect();
        assert_eq!(ExecutionPlan::new(ids, edges.clone()).unwrap().batches().count(), 1_000_000);
        let ids = (0..steps).map(|i| StepId::from(i.to_string())).collect();
        edges.push(Edge { from: steps - 1, to: 0, kind: EdgeKind::After });
        assert_eq!(ExecutionPlan::new(ids, edges).unwrap_err().steps.len(), 1_000_000);
    });
    thread.unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn a_plan_is_an_order_or_a_real_cycle(
        steps in 1_u32..40,
        edges in prop::collection::vec((0_u32..40, 0_u32..40), 0..80),
    ) {
        let ids: Vec<StepId> = (0..steps).map(|i| i.to_string().into()).collect();
        let edges: Vec<Edge> = edges
            .into_iter()
            .map(|(from, to)| Edge { from: from % steps, to: to % steps, kind: EdgeKind::After })
            .collect();
        match ExecutionPlan::new(ids, edges.clone()) {
            Ok(plan) => {
                prop_assert!(petgraph::algo::toposort(&plan.to_petgraph(), None).is_ok());
                let mut depth = vec![0; steps as usize];
                for (batch, steps) in plan.batches().enumerate() {
                    for step in steps {
                        depth[*step as usize] = batch;
                    }
                }
                prop_assert_eq!(plan.order().len(), steps as usize);
                for step in 0..steps {
                    let deepest =
                        plan.predecessors(step).iter().map(|l| depth[l.step as usize] + 1).max();
                    prop_assert_eq!(depth[step as usize], deepest.unwrap_or(0));
                }
            }
            Err(cycle) => {
                let numbers: Vec<u32> =
                    cycle.steps.iter().map(|id| id.as_str().parse().unwrap()).collect();
                prop_assert!(!numbers.is_empty());
                for (at, from) in numbers.iter().enumerate() {
                    let to = numbers[(at + 1) % numbers.len()];
                    prop_assert!(edges.iter().any(|e| e.from == *from && e.to == to));
                }
            }
        }
    }
}
