//! Bar charts of a table of costs, as SVG files that stand by themselves.
//!
//! One file a measure: a group of bars a step, a bar a tool, its figure behind it. Colours follow
//! the reader's light or dark scheme. Invariant: all bars of a file have one scale, from zero.

use std::fmt::Write as _;
use std::path::Path;

use rowvault::document::count;

use crate::report::{Line, Table, size};
use crate::tools::Taken;

const WIDTH: f64 = 760.0;
/// Where bars begin: before it stand the names of the tools.
const LEFT: f64 = 170.0;
/// The longest bar; behind it there is room for a figure.
const LONGEST: f64 = 480.0;
const BAR: f64 = 15.0;
const PITCH: f64 = 20.0;
const HEADING: f64 = 30.0;
const TOP: f64 = 62.0;

const STYLE: &str = "
  .ground { fill: #ffffff } .text { fill: #1f2933 } .faint { fill: #616e7c } .line { stroke: #cbd2d9 }
  .other { fill: #9aa5b1 } .ours { fill: #1d6fd1 } .part { opacity: 0.5 }
  text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }
  .title { font-size: 16px; font-weight: 600 } .step { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #11161d } .text { fill: #e4e7eb } .faint { fill: #9aa5b1 } .line { stroke: #3e4c59 }
    .other { fill: #616e7c } .ours { fill: #58a6ff }
  }
";

/// What is drawn of a step.
struct Measure {
    name: &'static str,
    title: &'static str,
    note: &'static str,
    /// The parts of a bar: all of it, or the client's and the server's; none where it says nothing.
    parts: fn(&Line, &Taken) -> Option<Vec<f64>>,
    figure: fn(f64) -> String,
}

const MEASURES: [Measure; 3] = [
    Measure {
        name: "cpu",
        title: "CPU seconds",
        note: "full colour: the tool's own processes; pale: the database's server meanwhile",
        parts: |_, taken| Some(vec![taken.cost.cpu, taken.server.unwrap_or_default()]),
        figure: |seconds| format!("{seconds:.2} s"),
    },
    Measure {
        name: "bytes",
        title: "bytes stored",
        note: "by how much the repository grew",
        parts: |line, taken| (line.step != "restore").then(|| vec![taken.bytes as f64]),
        figure: size,
    },
    Measure {
        name: "wall",
        title: "seconds from start to end",
        note: "one tool at a time on the same machine; rowvault's restore reads everything back",
        parts: |_, taken| Some(vec![taken.cost.wall]),
        figure: |seconds| format!("{seconds:.2} s"),
    },
];

/// Writes the charts of `tables`, each the median of `runs`, into `directory`, which is made.
pub fn write(directory: &Path, tables: &[Table], runs: u32) {
    std::fs::create_dir_all(directory).expect("--charts is writable");
    for table in tables {
        for measure in &MEASURES {
            let drawn = draw(table, measure, runs);
            let path = directory.join(format!("{}-{}.svg", slug(&table.title), measure.name));
            std::fs::write(path, drawn).expect("--charts is writable");
        }
    }
}

/// The title's words, in small letters.
fn slug(title: &str) -> String {
    let words = title.split(|letter: char| !letter.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty()).map(str::to_lowercase);
    words.collect::<Vec<_>>().join("-")
}

fn draw(table: &Table, measure: &Measure, runs: u32) -> String {
    let bars: Vec<(&Line, Vec<f64>)> = table
        .lines
        .iter()
        .filter_map(|line| Some((line, (measure.parts)(line, &line.taken())?)))
        .collect();
    let sums = bars.iter().map(|(_, parts)| parts.iter().sum());
    let most: f64 = sums.fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = TOP;
    let mut step = "";
    for (line, parts) in &bars {
        if line.step != step {
            step = &line.step;
            y += HEADING;
            text(&mut body, (16.0, y - 8.0), "text step", step);
        }
        bar(&mut body, y, line, parts, LONGEST / most, measure.figure);
        y += PITCH;
    }
    let height = y + 16.0;
    let title = format!("{}: {}", table.title, measure.title);
    let mut head = String::new();
    text(&mut head, (16.0, 28.0), "text title", &title);
    let runs = match runs {
        1 => "one run".into(),
        runs => format!("medians of {runs} runs"),
    };
    let note = format!("{} rows, {runs}; {}", count(table.rows), measure.note);
    text(&mut head, (16.0, 48.0), "faint", &note);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n{head}\
         {body}</svg>\n",
        escaped(&title)
    )
}

fn bar(
    out: &mut String,
    y: f64,
    line: &Line,
    parts: &[f64],
    scale: f64,
    figure: fn(f64) -> String,
) {
    let _ = writeln!(
        out,
        "<text class=\"text\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        y + BAR - 3.0,
        escaped(&line.tool)
    );
    let class = match line.tool.as_str() {
        "rowvault" => "ours",
        _ => "other",
    };
    let mut x = LEFT;
    for (at, part) in parts.iter().enumerate() {
        let width = part * scale;
        let part = if at > 0 { " part" } else { "" };
        if width > 0.0 {
            let _ = writeln!(
                out,
                "<rect class=\"{class}{part}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
            );
        }
        x += width;
    }
    let (from, to) = (y - 2.5, y + PITCH - 2.5);
    let _ = writeln!(
        out,
        "<line class=\"line\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{from}\" y2=\"{to}\"/>"
    );
    let sum = parts.iter().sum();
    text(out, (x + 6.0, y + BAR - 3.0), "faint", &figure(sum));
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, said: &str) {
    let said = escaped(said);
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{said}</text>"
    );
}

fn escaped(said: &str) -> String {
    let said = said.replace('&', "&amp;").replace('<', "&lt;");
    said.replace('>', "&gt;")
}
