//! Which names an expression can see from where it stands.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::Step;
use super::variable::Variables;
use crate::error::nearest;
use crate::expr::{Type, TypeScope};
use crate::value::Json;

/// The bodies around the place that is being compiled, outermost first.
pub(super) struct Names<'a> {
    pub(super) input: Type,
    pub(super) variables: &'a Variables,
    pub(super) frames: Vec<Frame<'a>>,
    /// Bodies further out that cannot be seen from here.
    pub(super) hidden: usize,
}

/// One body, while its steps are compiled.
pub(super) struct Frame<'a> {
    pub(super) steps: &'a [Step],
    /// Made when the first expression names a step; many workflows have none.
    index: OnceCell<HashMap<&'a str, u32>>,
    /// The step that is being compiled.
    pub(super) current: u32,
    /// Names that the composite step around it gives its body.
    pub(super) locals: &'static [&'static str],
    /// Dependencies that expressions make: of which step, on which, what for.
    pub(super) mentions: Vec<(u32, u32, crate::plan::EdgeKind)>,
}

impl<'a> Frame<'a> {
    pub(super) fn new(steps: &'a [Step], locals: &'static [&'static str]) -> Self {
        Self { steps, index: OnceCell::new(), current: 0, locals, mentions: Vec::new() }
    }

    pub(super) fn find(&self, id: &str) -> Option<u32> {
        let index = self.index.get_or_init(|| {
            let mut index = HashMap::with_capacity(self.steps.len());
            for (at, step) in self.steps.iter().enumerate() {
                index.entry(step.id.as_str()).or_insert(at as u32);
            }
            index
        });
        index.get(id).copied()
    }
}

impl Names<'_> {
    /// The innermost body that has a step of this id, and its place there.
    pub(super) fn find(&self, id: &str) -> Option<(usize, u32)> {
        self.frames
            .iter()
            .enumerate()
            .rev()
            .find_map(|(depth, frame)| frame.find(id).map(|at| (depth, at)))
    }
}

/// The names that expressions of one place can read.
pub(super) struct Visible<'a, 'b> {
    pub(super) names: &'b Names<'a>,
    /// Further names of this place.
    pub(super) extra: &'static [&'static str],
    /// The type of `output`, where that is what the step itself came to.
    pub(super) output: Option<&'b Type>,
}

impl TypeScope for Visible<'_, '_> {
    fn root(&self, name: &str) -> Option<Type> {
        match name {
            "input" => Some(self.names.input.clone()),
            "vars" => Some(self.names.variables.all_known()),
            "run" => {
                let fields = [("id".to_string(), Type::Text)].into();
                Some(Type::Object { fields, open: false })
            }
            "index" | "turn" if self.local(name) => Some(Type::Number),
            "output" if self.output.is_some() => self.output.cloned(),
            _ => self.local(name).then_some(Type::Any),
        }
    }

    fn step(&self, id: &str) -> Option<Type> {
        let (depth, at) = self.names.find(id)?;
        let step: &Step = self.names.frames[depth].steps.get(at as usize)?;
        // Outputs that are made from what a step came to have names, and no types.
        if !step.outputs.is_empty() {
            let fields = step.outputs.keys().map(|name| (name.clone(), Type::Any)).collect();
            return Some(Type::Object { fields, open: false });
        }
        let schema = step.output_schema.as_ref();
        Some(schema.map_or(Type::Any, |schema: &Json| Type::from_json_schema(schema)))
    }

    fn suggest(&self, id: &str) -> Option<String> {
        let ids = self
            .names
            .frames
            .iter()
            .rev()
            .flat_map(|frame| frame.steps.iter().map(|s| s.id.as_str()));
        nearest(id, ids).map(str::to_string)
    }
}

impl Visible<'_, '_> {
    fn local(&self, name: &str) -> bool {
        self.extra.contains(&name)
            || self.names.frames.iter().any(|frame| frame.locals.contains(&name))
    }
}
