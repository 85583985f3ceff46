//! Bars over the drills of the past, as SVG that stands inside a page.
//!
//! Colours come from the page's own style, so that they follow light, dark and paper. Invariant:
//! whatever durations come, every number that is drawn is finite and inside the picture.

use std::fmt::Write;
use std::time::Duration;

use crate::cli::render;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// A bar is at least so high, so that a fast drill is seen.
const BAR_MIN: f64 = 2.0;
/// A target that is so many times the highest bar would press all bars flat: it is not drawn.
const TARGET_FAR: u32 = 6;
/// A bar is at most so wide, so that a single drill is no block.
const BAR_MAX: f64 = 36.0;

/// One bar.
pub struct Bar {
    /// Its height; none where it is not known.
    pub value: Option<Duration>,
    /// Whether the drill was good.
    pub ok: bool,
    /// What stands below it.
    pub label: String,
    /// What a pointer shows.
    pub title: String,
}

/// The picture, with a line for the target; every text comes escaped.
pub fn bars(name: &str, bars: &[Bar], target: Option<Duration>) -> String {
    let highest = bars.iter().filter_map(|bar| bar.value);
    let highest = highest.max().unwrap_or_default();
    let target = target.filter(|target| *target <= highest.saturating_mul(TARGET_FAR));
    let top = target.map_or(highest, |target| highest.max(target));
    let top = top.as_secs_f64().max(0.001) * 1.08;
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let y = |value: Duration| TOP + inner_height * (1.0 - (value.as_secs_f64() / top).min(1.0));
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{name} over the last drills\">\n"
    );
    for share in [0.0, 0.5, 1.0] {
        let value = Duration::from_secs_f64(top / 1.08 * share);
        let at = y(value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"axis\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            render::duration(value)
        );
    }
    let step = inner_width / bars.len().max(1) as f64;
    let width = (step * 0.68).min(BAR_MAX);
    // Labels must not run into each other.
    let every = (64.0 / step).ceil().max(1.0) as usize;
    for (at, bar) in bars.iter().enumerate() {
        let middle = LEFT + step * (at as f64 + 0.5);
        if let Some(value) = bar.value {
            let head = y(value).min(HEIGHT - BOTTOM - BAR_MIN);
            let _ = writeln!(
                out,
                "<rect class=\"{}\" x=\"{:.1}\" y=\"{head:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}</title></rect>",
                if bar.ok { "good" } else { "bad" },
                middle - width / 2.0,
                HEIGHT - BOTTOM - head,
                bar.title
            );
        }
        if (bars.len() - 1 - at).is_multiple_of(every) {
            let _ = writeln!(
                out,
                "<text class=\"axis\" x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 6.0,
                bar.label
            );
        }
    }
    if let Some(target) = target {
        let at = y(target);
        let _ = writeln!(
            out,
            "<line class=\"target\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_has_finite_numbers_and_a_bar_for_each_known_drill() {
        let bar = |value: Option<u64>| Bar {
            value: value.map(Duration::from_millis),
            ok: true,
            label: "x".into(),
            title: "y".into(),
        };
        for (values, target) in [
            (vec![], None),
            (vec![Some(0)], None),
            (vec![Some(1), None, Some(u64::MAX / 2)], Some(5)),
            (vec![Some(20); 20], Some(0)),
        ] {
            let known = values.iter().flatten().count();
            let made: Vec<Bar> = values.into_iter().map(bar).collect();
            let svg = bars("RTO", &made, target.map(Duration::from_secs));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(svg.matches("<rect").count(), known);
        }
    }
}
