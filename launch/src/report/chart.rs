//! Curves over steps as SVG: drawn here, so that a page needs no library; read off by `chart.js` where scripts run.
//! It never draws more points than a screen has columns: of many, the mean, and a band from the least to the most.

use std::fmt::Write as _;

use super::page::Html;

/// The drawing, in its own units; the page scales it.
const SIZE: (f64, f64) = (720.0, 230.0);
/// What stands left of the curves, above, right and below.
const MARGIN: [f64; 4] = [58.0, 10.0, 12.0, 24.0];
/// Columns that are drawn at most.
const COLUMNS: usize = 360;

/// A chart: lines over the same steps, and marks at some of them.
#[derive(Debug, Default)]
pub(super) struct Chart {
    pub title: String,
    pub lines: Vec<Curve>,
    pub marks: Vec<Mark>,
}

/// One line.
#[derive(Debug, Default)]
pub(super) struct Curve {
    pub name: String,
    /// Which colour, from 0.
    pub colour: usize,
    /// Step and value, by step; what is not finite is left out.
    pub points: Vec<(u64, f64)>,
    /// Points that are few and far between are drawn as dots, too.
    pub dotted: bool,
}

/// Something that happened at a step.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub step: u64,
    pub text: String,
}

/// Least, mean and most of the points of one column.
struct Column {
    step: f64,
    least: f64,
    mean: f64,
    most: f64,
}

/// From steps and values to the drawing.
struct Scale {
    steps: (f64, f64),
    values: (f64, f64),
}

impl Chart {
    /// The chart with its legend; nothing where no line has a point.
    pub(super) fn html(&self) -> Option<Html> {
        let scale = self.scale()?;
        let (w, h) = SIZE;
        let title = Html::text(&self.title);
        let mut svg = format!(
            "<figure class=\"chart\" data-steps=\"{} {}\" data-values=\"{} {}\" data-plot=\"{} {} {} {}\">\n<figcaption><b>{title}</b>",
            scale.steps.0,
            scale.steps.1,
            scale.values.0,
            scale.values.1,
            MARGIN[0],
            MARGIN[1],
            w - MARGIN[2],
            h - MARGIN[3],
        );
        for line in &self.lines {
            let _ = write!(svg, " <span class=\"key c{}\">{}</span>", line.colour, Html::text(&line.name));
        }
        let _ = write!(
            svg,
            "<output></output></figcaption>\n<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        self.axes(&scale, &mut svg);
        for mark in &self.marks {
            let (x, text) = (scale.x(mark.step as f64), Html::text(&mark.text));
            let _ = writeln!(
                svg,
                "<g class=\"mark\"><line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/><path d=\"M{x:.1} {} l4 -7 h-8 z\"/><title>step {}: {text}</title></g>",
                MARGIN[1],
                h - MARGIN[3],
                MARGIN[1] + 7.0,
                mark.step
            );
        }
        for line in &self.lines {
            line.draw(&scale, &mut svg);
        }
        svg.push_str("<line class=\"here\" hidden=\"\"/>\n</svg>\n</figure>\n");
        Some(Html::raw(svg))
    }

    fn scale(&self) -> Option<Scale> {
        let all = || self.lines.iter().flat_map(|line| line.finite());
        let bounds = |of: fn((u64, f64)) -> f64| {
            all().map(of).fold(None, |bounds: Option<(f64, f64)>, v| match bounds {
                None => Some((v, v)),
                Some((least, most)) => Some((least.min(v), most.max(v))),
            })
        };
        let (steps, mut values) = (bounds(|(step, _)| step as f64)?, bounds(|(_, value)| value)?);
        if values.0 == values.1 {
            let half = (values.0.abs() * 0.1).max(1e-12);
            values = (values.0 - half, values.1 + half);
        }
        let steps = if steps.0 == steps.1 { (steps.0 - 0.5, steps.1 + 0.5) } else { steps };
        Some(Scale { steps, values })
    }

    fn axes(&self, scale: &Scale, svg: &mut String) {
        let (w, h) = SIZE;
        for value in ticks(scale.values, 4) {
            let y = scale.y(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" class=\"end\">{}</text>",
                MARGIN[0],
                w - MARGIN[2],
                MARGIN[0] - 6.0,
                y + 3.5,
                shown(value)
            );
        }
        for step in ticks(scale.steps, 6).into_iter().filter(|step| step.fract() == 0.0) {
            let x = scale.x(step);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" class=\"mid\">{step}</text>", h - MARGIN[3] + 16.0);
        }
    }
}

impl Curve {
    fn finite(&self) -> impl Iterator<Item = (u64, f64)> {
        self.points.iter().copied().filter(|(_, value)| value.is_finite())
    }

    /// The points, or of many the columns they fall into.
    fn columns(&self, scale: &Scale) -> Vec<Column> {
        let points: Vec<(u64, f64)> = self.finite().collect();
        let one = |&(step, value): &(u64, f64)| Column { step: step as f64, least: value, mean: value, most: value };
        if points.len() <= COLUMNS {
            return points.iter().map(one).collect();
        }
        let width = (scale.steps.1 - scale.steps.0) / COLUMNS as f64;
        let column =
            |&(step, _): &(u64, f64)| ((step as f64 - scale.steps.0) / width).min(COLUMNS as f64 - 1.0) as usize;
        let together = |points: &[(u64, f64)]| {
            let n = points.len() as f64;
            let mean = |of: fn(&(u64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
            Column {
                step: mean(|point| point.0 as f64),
                least: points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min),
                mean: mean(|point| point.1),
                most: points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max),
            }
        };
        points.chunk_by(|a, b| column(a) == column(b)).map(together).collect()
    }

    fn draw(&self, scale: &Scale, svg: &mut String) {
        let columns = self.columns(scale);
        let path = |of: fn(&Column) -> f64, columns: &mut dyn Iterator<Item = &Column>| {
            columns.map(|c| format!("{:.1},{:.1}", scale.x(c.step), scale.y(of(c)))).collect::<Vec<_>>().join(" ")
        };
        if columns.iter().any(|column| column.least < column.most) {
            let (up, down) = (path(|c| c.most, &mut columns.iter()), path(|c| c.least, &mut columns.iter().rev()));
            let _ = writeln!(svg, "<polygon class=\"band c{}\" points=\"{up} {down}\"/>", self.colour);
        }
        let (name, line) = (Html::text(&self.name), path(|c| c.mean, &mut columns.iter()));
        let _ = writeln!(svg, "<polyline class=\"line c{}\" data-name=\"{name}\" points=\"{line}\"/>", self.colour);
        if self.dotted || columns.len() == 1 {
            for column in &columns {
                let (x, y) = (scale.x(column.step), scale.y(column.mean));
                let _ = writeln!(svg, "<circle class=\"c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>", self.colour);
            }
        }
    }
}

impl Scale {
    fn x(&self, step: f64) -> f64 {
        let (left, right) = (MARGIN[0], SIZE.0 - MARGIN[2]);
        left + (step - self.steps.0) / (self.steps.1 - self.steps.0) * (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        let (top, bottom) = (MARGIN[1], SIZE.1 - MARGIN[3]);
        bottom - (value - self.values.0) / (self.values.1 - self.values.0) * (bottom - top)
    }
}

/// About `n` round numbers between two: 1, 2 or 5 times a power of ten apart.
fn ticks((least, most): (f64, f64), n: usize) -> Vec<f64> {
    let rough = (most - least) / n as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((least / step).ceil() as i64, (most / step).floor() as i64);
    // A multiple of a power of ten has a short decimal form only by way of one.
    (first..=last).map(|k| format!("{:.6e}", k as f64 * step).parse().unwrap_or(0.0)).collect()
}

/// A number at an axis.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:e}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
