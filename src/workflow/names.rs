//! Which names an expression can see from where it stands.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use super::variable::Variables;
use super::{Formula, Step};
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
    /// The type of `item`, where that is one of the names.
    pub(super) item: Type,
    /// Types of outputs that are made by formulas, as far as somebody has asked for them.
    made: RefCell<HashMap<u32, Type>>,
    /// Dependencies that expressions make: of which step, on which, what for.
    pub(super) mentions: Vec<(u32, u32, crate::plan::EdgeKind)>,
}

impl<'a> Frame<'a> {
    pub(super) fn new(steps: &'a [Step], locals: &'static [&'static str]) -> Self {
        Self {
            steps,
            index: OnceCell::new(),
            current: 0,
            locals,
            item: Type::Any,
            made: RefCell::default(),
            mentions: Vec::new(),
        }
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
    /// The type of `item`, where there is one.
    pub(super) fn item(&self) -> Option<&Type> {
        item(self.frames.iter())
    }

    /// The innermost body that has a step of this id, and its place there.
    pub(super) fn find(&self, id: &str) -> Option<(usize, u32)> {
        self.find_within(id, self.frames.len())
    }

    /// The same among these outermost bodies.
    fn find_within(&self, id: &str, frames: usize) -> Option<(usize, u32)> {
        let frames = self.frames.iter().take(frames).enumerate();
        frames.rev().find_map(|(depth, frame)| frame.find(id).map(|at| (depth, at)))
    }
}

fn item<'b, 'a: 'b>(frames: impl DoubleEndedIterator<Item = &'b Frame<'a>>) -> Option<&'b Type> {
    let mut inner = frames.rev().filter(|frame| frame.locals.contains(&"item"));
    inner.next().map(|frame| &frame.item)
}

/// The names that expressions of one place can read.
pub(super) struct Visible<'a, 'b> {
    pub(super) names: &'b Names<'a>,
    /// Further names of this place.
    pub(super) extra: &'static [&'static str],
    /// The type of `output`, where that is what the step itself came to.
    pub(super) output: Option<&'b Type>,
    /// How many of the bodies, from the outermost.
    frames: usize,
    /// How many outputs are being looked into to get here.
    hops: usize,
}

/// Outputs made from outputs that are followed; what is made from more of them has no known type.
const HOPS_MAX: usize = 32;

impl<'a, 'b> Visible<'a, 'b> {
    /// What can be seen from the innermost body.
    pub(super) fn new(
        names: &'b Names<'a>,
        extra: &'static [&'static str],
        output: Option<&'b Type>,
    ) -> Self {
        Self { names, extra, output, frames: names.frames.len(), hops: 0 }
    }
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
            "item" => item(self.bodies()).cloned(),
            "output" if self.output.is_some() => self.output.cloned(),
            _ => self.local(name).then_some(Type::Any),
        }
    }

    fn step(&self, id: &str) -> Option<Type> {
        let (depth, at) = self.names.find_within(id, self.frames)?;
        let frame = self.names.frames.get(depth)?;
        let step: &Step = frame.steps.get(at as usize)?;
        let schema = step.output_schema.as_ref();
        let raw = schema.map_or(Type::Any, |schema: &Json| Type::from_json_schema(schema));
        if step.outputs.is_empty() {
            return Some(raw);
        }
        if let Some(made) = frame.made.borrow().get(&at) {
            return Some(made.clone());
        }
        let typed = |of: &dyn Fn(&str) -> Type| {
            let fields = step.outputs.iter().map(|(name, text)| (name.clone(), of(text)));
            Type::Object { fields: fields.collect(), open: false }
        };
        let untyped = typed(&|_| Type::Any);
        if self.hops == HOPS_MAX {
            return Some(untyped);
        }
        // Outputs that are made from each other are a cycle of steps, and found as such.
        frame.made.borrow_mut().insert(at, untyped);
        let (frames, hops) = (depth + 1, self.hops + 1);
        let inside = Visible { names: self.names, extra: &[], output: Some(&raw), frames, hops };
        let made = typed(&|text| Formula::type_of(text, &inside));
        frame.made.borrow_mut().insert(at, made.clone());
        Some(made)
    }

    fn suggest(&self, id: &str) -> Option<String> {
        let frames = self.bodies().rev();
        let ids = frames.flat_map(|frame| frame.steps.iter().map(|s| s.id.as_str()));
        nearest(id, ids).map(str::to_string)
    }
}

impl<'a, 'b> Visible<'a, 'b> {
    fn bodies(&self) -> impl DoubleEndedIterator<Item = &'b Frame<'a>> {
        self.names.frames.iter().take(self.frames)
    }

    fn local(&self, name: &str) -> bool {
        self.extra.contains(&name) || self.bodies().any(|frame| frame.locals.contains(&name))
    }
}
