//! A plan as a self-contained SVG: the batches are the layers, a few sweeps untangle the edges.

use std::fmt::Write;

use super::drawing::{Drawing, DrawnStatus};
use super::edge::EdgeKind;

/// Steps drawn one by one; above this a picture tells nobody anything, so each batch becomes a box.
const STEPS_DRAWN_MAX: usize = 300;
/// Sweeps down and up that order each layer by the mean place of its neighbours (the barycentre
/// method: Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system
/// structures", 1981). More hardly change anything.
const SWEEPS: usize = 4;
/// Letters of a label; the whole text stands in the box's tooltip.
const LABEL_CHARS_MAX: usize = 26;
/// Batches drawn of a plan that is too large; the rest is one line.
const BATCHES_DRAWN_MAX: usize = 60;

const BOX_HEIGHT: f64 = 36.0;
const LAYER_HEIGHT: f64 = 84.0;
const GAP: f64 = 22.0;
const MARGIN: f64 = 20.0;

/// A box of the picture, or a bend of an edge that passes through a layer.
struct Spot {
    step: Option<u32>,
    width: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

struct Layout {
    spots: Vec<Spot>,
    layers: Vec<Vec<usize>>,
    /// For each edge: its spots from top to bottom, and its kind.
    paths: Vec<(Vec<usize>, EdgeKind)>,
}

impl Drawing<'_> {
    /// A picture that needs nothing else: no fonts, no scripts, no network. Plans of more than 300
    /// steps are drawn as one box per batch.
    #[must_use]
    pub fn to_svg(&self) -> String {
        if self.plan.len() > STEPS_DRAWN_MAX {
            return self.overview();
        }
        let mut layout = self.layers();
        layout.untangle();
        let width = layout.place();
        let height = layout.layers.len() as f64 * LAYER_HEIGHT - (LAYER_HEIGHT - BOX_HEIGHT);
        let mut svg = head(width, height, &format!("{} steps", self.plan.len()));
        let y = layer_of(&layout);
        for (path, kind) in &layout.paths {
            draw_edge(&mut svg, &layout, &y, path, *kind);
        }
        for (at, spot) in layout.spots.iter().enumerate() {
            if let Some(step) = spot.step {
                self.draw_box(&mut svg, spot, y[at], step);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Every step at its batch, every edge cut into pieces of one layer each.
    fn layers(&self) -> Layout {
        let mut layout = Layout { spots: Vec::new(), layers: Vec::new(), paths: Vec::new() };
        let mut depth = vec![0_usize; self.plan.len()];
        let mut spot_of = vec![0_usize; self.plan.len()];
        for (layer, batch) in self.plan.batches().enumerate() {
            layout.layers.push(Vec::new());
            for &step in batch {
                let letters = clipped(&self.label(step)).chars().count();
                depth[step as usize] = layer;
                spot_of[step as usize] =
                    layout.add(layer, Some(step), (letters as f64).mul_add(7.4, 28.0).max(64.0));
            }
        }
        for (from, to, kind) in self.edges() {
            let mut path = vec![spot_of[from as usize]];
            for layer in depth[from as usize] + 1..depth[to as usize] {
                path.push(layout.add(layer, None, 6.0));
            }
            path.push(spot_of[to as usize]);
            for pair in path.windows(2) {
                layout.spots[pair[0]].below.push(pair[1]);
                layout.spots[pair[1]].above.push(pair[0]);
            }
            layout.paths.push((path, kind));
        }
        layout
    }

    fn draw_box(&self, svg: &mut String, spot: &Spot, y: f64, step: u32) {
        let status = self.status_of(step);
        let (fill, line) = status.unwrap_or(DrawnStatus::Pending).colours();
        let name = self.plan.id(step).as_str();
        let said = status.map_or(String::new(), |status| format!(": {}", status.name()));
        let dash =
            if status == Some(DrawnStatus::Skipped) { " stroke-dasharray=\"4 3\"" } else { "" };
        let _ = writeln!(
            svg,
            "<g><title>{}{said}</title><rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"{BOX_HEIGHT}\" rx=\"8\" fill=\"{fill}\" stroke=\"{line}\" \
             stroke-width=\"1.5\"{dash}/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text></g>",
            xml_text(name),
            spot.x - spot.width / 2.0,
            spot.width,
            spot.x,
            y + BOX_HEIGHT / 2.0 + 4.5,
            xml_text(&clipped(&self.label(step))),
        );
    }

    /// One box per batch, for plans that are too large to show step by step.
    fn overview(&self) -> String {
        let batches = self.plan.batches().count();
        let drawn = batches.min(BATCHES_DRAWN_MAX);
        let rows = drawn + usize::from(batches > drawn);
        let height = (rows as f64).mul_add(52.0, -16.0);
        let mut svg =
            head(520.0, height, &format!("{} steps in {batches} batches", self.plan.len()));
        for (row, batch) in self.plan.batches().take(drawn).enumerate() {
            let mut label = match batch {
                [only] => self.plan.id(*only).to_string(),
                _ => format!("batch {}: {} steps", row + 1, batch.len()),
            };
            if self.status.is_some() {
                for status in DrawnStatus::ALL {
                    let count =
                        batch.iter().filter(|s| self.status_of(**s) == Some(status)).count();
                    if count > 0 && status != DrawnStatus::Pending {
                        let _ = write!(label, "  {}{count}", status.sign());
                    }
                }
            }
            let y = (row as f64).mul_add(52.0, MARGIN);
            if row > 0 {
                let _ = writeln!(
                    svg,
                    "<path class=\"e\" d=\"M280 {:.1} L280 {:.1}\" marker-end=\"url(#a)\"/>",
                    y - 16.0,
                    y - 3.0
                );
            }
            let _ = writeln!(
                svg,
                "<rect x=\"{MARGIN}\" y=\"{y:.1}\" width=\"520\" height=\"{BOX_HEIGHT}\" rx=\"8\" \
                 fill=\"#ffffff\" stroke=\"#8a94a0\" stroke-width=\"1.5\"/><text x=\"280\" \
                 y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                y + 22.5,
                xml_text(&label.chars().take(64).collect::<String>()),
            );
        }
        if batches > drawn {
            let y = (drawn as f64).mul_add(52.0, MARGIN + 22.5);
            let _ = writeln!(
                svg,
                "<text x=\"280\" y=\"{y:.1}\" text-anchor=\"middle\">... and {} more batches</text>",
                batches - drawn
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Layout {
    fn add(&mut self, layer: usize, step: Option<u32>, width: f64) -> usize {
        let (above, below) = (Vec::new(), Vec::new());
        self.spots.push(Spot { step, width, x: 0.0, above, below });
        self.layers[layer].push(self.spots.len() - 1);
        self.spots.len() - 1
    }

    fn untangle(&mut self) {
        let mut rank = vec![0.0; self.spots.len()];
        for sweep in 0..SWEEPS {
            for i in 0..self.layers.len() {
                let down = sweep % 2 == 0;
                let layer = if down { i } else { self.layers.len() - 1 - i };
                let mean = |spot: usize, rank: &[f64]| {
                    let near = if down { &self.spots[spot].above } else { &self.spots[spot].below };
                    if near.is_empty() {
                        return rank[spot];
                    }
                    near.iter().map(|other| rank[*other]).sum::<f64>() / near.len() as f64
                };
                let mut keyed: Vec<(f64, usize)> =
                    self.layers[layer].iter().map(|spot| (mean(*spot, &rank), *spot)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (place, (_, spot)) in keyed.iter().enumerate() {
                    rank[*spot] = place as f64 / keyed.len() as f64;
                }
                self.layers[layer] = keyed.into_iter().map(|(_, spot)| spot).collect();
            }
        }
    }

    /// Centres each layer; the width of the widest.
    fn place(&mut self) -> f64 {
        let widths: Vec<f64> = self
            .layers
            .iter()
            .map(|layer| layer.iter().map(|spot| self.spots[*spot].width + GAP).sum::<f64>() - GAP)
            .collect();
        let widest = widths.iter().copied().fold(120.0, f64::max);
        for (layer, width) in self.layers.iter().zip(&widths) {
            let mut x = MARGIN + (widest - width) / 2.0;
            for spot in layer {
                let spot = &mut self.spots[*spot];
                spot.x = x + spot.width / 2.0;
                x += spot.width + GAP;
            }
        }
        widest
    }
}

/// The top of each spot's layer.
fn layer_of(layout: &Layout) -> Vec<f64> {
    let mut y = vec![0.0; layout.spots.len()];
    for (at, layer) in layout.layers.iter().enumerate() {
        for spot in layer {
            y[*spot] = (at as f64).mul_add(LAYER_HEIGHT, MARGIN);
        }
    }
    y
}

fn draw_edge(svg: &mut String, layout: &Layout, y: &[f64], path: &[usize], kind: EdgeKind) {
    let [first, .., last] = path else { return };
    let mut line = format!("M{:.1} {:.1}", layout.spots[*first].x, y[*first] + BOX_HEIGHT);
    for pair in path.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let end = if to == *last { y[to] - 5.0 } else { y[to] };
        let begin = y[from] + BOX_HEIGHT;
        let (x1, x2, middle) = (layout.spots[from].x, layout.spots[to].x, (begin + end) / 2.0);
        let _ = write!(line, " C{x1:.1} {middle:.1} {x2:.1} {middle:.1} {x2:.1} {end:.1}");
        if to != *last {
            let _ = write!(line, " L{x2:.1} {:.1}", end + BOX_HEIGHT);
        }
    }
    let (style, said) = match kind {
        EdgeKind::After => ("e", None),
        EdgeKind::OnSuccess | EdgeKind::Always => ("e", Some(kind.as_str())),
        EdgeKind::OnFailure | EdgeKind::Otherwise | EdgeKind::Reads => ("e d", Some(kind.as_str())),
    };
    let _ = writeln!(svg, "<path class=\"{style}\" d=\"{line}\" marker-end=\"url(#a)\"/>");
    if let Some(said) = said {
        let x = f64::midpoint(layout.spots[path[0]].x, layout.spots[path[1]].x);
        let y = (y[path[0]] + BOX_HEIGHT + y[path[1]]) / 2.0 + 3.0;
        let _ = writeln!(
            svg,
            "<text class=\"l\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{said}</text>"
        );
    }
}

fn head(width: f64, height: f64, description: &str) -> String {
    let (width, height) = (2.0_f64.mul_add(MARGIN, width), 2.0_f64.mul_add(MARGIN, height));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>Execution plan</title>\n\
         <desc>{}</desc>\n<style>text{{fill:#1a1a1a}} .e{{fill:none;stroke:#7a838d;\
         stroke-width:1.4}} .d{{stroke-dasharray:5 4}} .l{{font-size:10.5px;fill:#4a525a;\
         paint-order:stroke;stroke:#fbfcfd;stroke-width:3px}}</style>\n<defs><marker id=\"a\" \
         viewBox=\"0 0 8 8\" refX=\"5\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0.5 L7.5 4 L0 7.5 z\" fill=\"#7a838d\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fbfcfd\"/>\n",
        xml_text(description)
    )
}

fn clipped(label: &str) -> String {
    if label.chars().count() <= LABEL_CHARS_MAX {
        return label.to_string();
    }
    label.chars().take(LABEL_CHARS_MAX - 1).chain(['…']).collect()
}

fn xml_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
