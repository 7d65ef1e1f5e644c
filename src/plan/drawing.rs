//! Pictures of a plan as text: Mermaid and Graphviz DOT. SVG has a file of its own.

use std::fmt::Write;

use super::edge::EdgeKind;
use super::execution_plan::ExecutionPlan;

/// How a step is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DrawnStatus {
    /// Not reached yet.
    Pending,
    /// Could start.
    Ready,
    /// At work.
    Running,
    /// Waits for a time, a signal or its next attempt.
    Waiting,
    /// Waits until somebody says what became of it.
    Unknown,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Left out.
    Skipped,
    /// Stopped.
    Cancelled,
}

impl DrawnStatus {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Ready,
        Self::Running,
        Self::Waiting,
        Self::Unknown,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Unknown => "unknown",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Fill and line; told apart by lightness as well as by hue.
    pub(super) const fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Pending => ("#ffffff", "#8a94a0"),
            Self::Ready => ("#eaf2fd", "#3572b8"),
            Self::Running => ("#cfe3fb", "#1558a6"),
            Self::Waiting => ("#fdf1cf", "#96690a"),
            Self::Unknown => ("#ffe3c2", "#9a4a00"),
            Self::Succeeded => ("#d8f2de", "#21703a"),
            Self::Failed => ("#fbd9d7", "#a8261c"),
            Self::Skipped => ("#eef0f2", "#66707a"),
            Self::Cancelled => ("#e7dff3", "#5f3f8f"),
        }
    }

    /// A sign, so that colour is never the only difference.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Pending => "",
            Self::Ready => "○ ",
            Self::Running => "▶ ",
            Self::Waiting => "⏳ ",
            Self::Unknown => "? ",
            Self::Succeeded => "✓ ",
            Self::Failed => "✗ ",
            Self::Skipped => "– ",
            Self::Cancelled => "■ ",
        }
    }
}

/// A plan with, if there is a run, what has become of its steps.
///
/// ```
/// use stepwell::plan::{Drawing, DrawnStatus, Edge, EdgeKind, ExecutionPlan};
///
/// let edge = Edge { from: 0, to: 1, kind: EdgeKind::After };
/// let plan = ExecutionPlan::new(vec!["a".into(), "b".into()], vec![edge]).unwrap();
/// let live = Drawing::of(&plan).status(|step| match step {
///     0 => DrawnStatus::Succeeded,
///     _ => DrawnStatus::Running,
/// });
/// assert!(live.to_mermaid().contains("n0 --> n1"));
/// assert!(live.to_svg().starts_with("<svg"));
/// ```
pub struct Drawing<'a> {
    pub(super) plan: &'a ExecutionPlan,
    pub(super) status: Option<Box<dyn Fn(u32) -> DrawnStatus + 'a>>,
}

impl std::fmt::Debug for Drawing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drawing").field("plan", self.plan).finish_non_exhaustive()
    }
}

impl<'a> Drawing<'a> {
    /// The plan alone.
    #[must_use]
    pub fn of(plan: &'a ExecutionPlan) -> Self {
        Self { plan, status: None }
    }

    /// With what has become of each step.
    #[must_use]
    pub fn status(mut self, status: impl Fn(u32) -> DrawnStatus + 'a) -> Self {
        self.status = Some(Box::new(status));
        self
    }

    pub(super) fn status_of(&self, step: u32) -> Option<DrawnStatus> {
        self.status.as_ref().map(|status| status(step))
    }

    pub(super) fn label(&self, step: u32) -> String {
        let sign = self.status_of(step).map_or("", DrawnStatus::sign);
        format!("{sign}{}", self.plan.id(step))
    }

    /// A [Mermaid](https://mermaid.js.org/syntax/flowchart.html) flowchart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = String::from("flowchart TD\n");
        for step in 0..self.plan.len() as u32 {
            let _ = write!(text, "  n{step}[\"{}\"]", mermaid_text(&self.label(step)));
            if let Some(status) = self.status_of(step) {
                let _ = write!(text, ":::{}", status.name());
            }
            text.push('\n');
        }
        for (from, to, kind) in self.edges() {
            let arrow = match kind {
                EdgeKind::After => "-->".to_string(),
                EdgeKind::OnSuccess | EdgeKind::Always => format!("-->|{}|", kind.as_str()),
                EdgeKind::OnFailure | EdgeKind::Otherwise | EdgeKind::Reads => {
                    format!("-.->|{}|", kind.as_str())
                }
            };
            let _ = writeln!(text, "  n{from} {arrow} n{to}");
        }
        if self.status.is_some() {
            for status in DrawnStatus::ALL {
                let (fill, line) = status.colours();
                let name = status.name();
                let _ = writeln!(text, "  classDef {name} fill:{fill},stroke:{line},color:#1a1a1a");
            }
        }
        text
    }

    /// A [Graphviz](https://graphviz.org/doc/info/lang.html) digraph.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = String::from(
            "digraph plan {\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", \
             fillcolor=\"#ffffff\", fontname=\"sans-serif\"];\n",
        );
        for step in 0..self.plan.len() as u32 {
            let _ = write!(text, "  n{step} [label=\"{}\"", dot_text(&self.label(step)));
            if let Some(status) = self.status_of(step) {
                let (fill, line) = status.colours();
                let _ = write!(text, ", fillcolor=\"{fill}\", color=\"{line}\"");
            }
            text.push_str("];\n");
        }
        for (from, to, kind) in self.edges() {
            let style = match kind {
                EdgeKind::After => String::new(),
                EdgeKind::OnSuccess | EdgeKind::Always => format!(" [label=\"{}\"]", kind.as_str()),
                EdgeKind::OnFailure | EdgeKind::Otherwise | EdgeKind::Reads => {
                    format!(" [label=\"{}\", style=dashed]", kind.as_str())
                }
            };
            let _ = writeln!(text, "  n{from} -> n{to}{style};");
        }
        text.push_str("}\n");
        text
    }

    /// All edges, by the step they leave.
    pub(super) fn edges(&self) -> impl Iterator<Item = (u32, u32, EdgeKind)> + '_ {
        (0..self.plan.len() as u32).flat_map(|step| {
            self.plan.successors(step).iter().map(move |link| (step, link.step, link.kind))
        })
    }
}

impl ExecutionPlan {
    /// [`Drawing::to_mermaid`] without a run.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        Drawing::of(self).to_mermaid()
    }

    /// [`Drawing::to_dot`] without a run.
    #[must_use]
    pub fn to_dot(&self) -> String {
        Drawing::of(self).to_dot()
    }

    /// [`Drawing::to_svg`] without a run.
    #[must_use]
    pub fn to_svg(&self) -> String {
        Drawing::of(self).to_svg()
    }
}

/// Mermaid has its own entities, `#name;`; what could end the label or open markup becomes one.
fn mermaid_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '#' | '<' | '>' | '&' | '`' | '\\' | ';' => {
                let _ = write!(safe, "#{};", u32::from(c));
            }
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn dot_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => safe.extend(['\\', c]),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
