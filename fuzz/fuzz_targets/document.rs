//! Any text as YAML or JSON: refused, or a workflow that survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stepwell::Workflow;

fuzz_target!(|text: &str| {
    for workflow in [Workflow::from_json(text), Workflow::from_yaml(text)] {
        let Ok(workflow) = workflow else { continue };
        let Ok(written) = workflow.to_json() else { panic!("{text:?} cannot be written") };
        let again = Workflow::from_json(&written);
        assert_eq!(again.as_ref().ok(), Some(&workflow), "{text:?} was written as {written}");
    }
});
