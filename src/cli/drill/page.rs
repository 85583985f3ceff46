//! A drill as one HTML page: read on a screen, printed, kept with the papers of an audit.
//!
//! Invariant: the page asks nothing of any network, runs no script, and every text that came from
//! a database, a configuration or a ledger is escaped.

use std::fmt::Write;
use std::time::Duration;

use super::chart::{self, Bar};
use crate::cli::render;
use crate::job::drill::{Checked, Expected, Outcome, Past};

/// The parts of a drill as people call them, and what they are.
const PHASES: [(&str, &str, &str); 9] = [
    (
        "find",
        "Find",
        "open the repository, read the ledgers, choose the snapshot",
    ),
    (
        "fetch",
        "Fetch",
        "manifest, index, a look that every pack is there",
    ),
    ("open", "Open", "decrypt the structure"),
    (
        "scratch",
        "Scratch",
        "make the place to restore into; not part of the RTO",
    ),
    ("ddl", "Tables", "create schemas, types and tables"),
    ("data", "Rows", "fetch, decrypt and load every row"),
    (
        "indexes",
        "Indexes",
        "indexes, constraints, triggers, publishing",
    ),
    (
        "read_back",
        "Read back",
        "read every row back and compare digests",
    ),
    (
        "checks",
        "Checks",
        "foreign keys and the source's own questions",
    ),
];

const STYLE: &str = include_str!("page.css");

/// `text` as it may stand anywhere in a page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// The page.
pub fn page(outcome: &Outcome, expected: &Expected, past: &[Past]) -> String {
    let source = escaped(outcome.snapshot.source.as_str());
    let (class, verdict) = match outcome.is_ok() {
        true => ("pass", "Passed: everything that was expected came back"),
        false => ("fail", "Failed: not everything that was expected came back"),
    };
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Recovery drill of {source}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><p class=\"kind\">Recovery drill</p><h1>{source}</h1>\n\
         <p class=\"when\">{} UTC</p></header>\n\
         <p class=\"verdict {class}\">{verdict}</p>\n",
        render::time(outcome.began_at)
    );
    figures(&mut out, outcome);
    checks(&mut out, &outcome.checks);
    phases(&mut out, outcome);
    history(&mut out, expected, past);
    facts(&mut out, outcome);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn figures(out: &mut String, outcome: &Outcome) {
    let target = |name: &str| {
        let check = outcome.checks.iter().find(|check| check.name == name);
        let class = check.map_or("", |check| if check.ok { "pass" } else { "fail" });
        let told = check.map_or("no target".into(), |check| escaped(&check.detail));
        format!("<span class=\"note {class}\">{told}</span>")
    };
    let note = |text: &str| format!("<span class=\"note\">{text}</span>");
    let rto = match outcome.failure {
        None => render::duration(outcome.rto()),
        Some(_) => "not recovered".into(),
    };
    let cards = [
        ("RTO", "time to recover", rto, target("RTO target")),
        (
            "RPO",
            "age of the snapshot",
            render::duration(outcome.rpo),
            target("RPO target"),
        ),
        (
            "Rows",
            "came back",
            render::count(outcome.rows),
            note(&format!("in {}", render::counted(outcome.tables, "table"))),
        ),
        (
            "Fetched",
            "from the repository",
            render::size(outcome.bytes_fetched),
            note(&format!("{} of rows", render::size(outcome.bytes))),
        ),
    ];
    out.push_str("<section class=\"cards\">\n");
    for (name, what, value, note) in cards {
        let _ = writeln!(
            out,
            "<div class=\"card\"><span class=\"name\">{name} <small>{what}</small></span>\
             <span class=\"value\">{value}</span>{note}</div>"
        );
    }
    out.push_str("</section>\n");
}

fn checks(out: &mut String, checks: &[Checked]) {
    out.push_str(
        "<section><h2>What was checked</h2>\n<table class=\"checks\"><thead><tr><th>Outcome</th>\
         <th>Check</th><th>Found</th></tr></thead><tbody>\n",
    );
    let failed_first = checks
        .iter()
        .filter(|one| !one.ok)
        .chain(checks.iter().filter(|one| one.ok));
    for check in failed_first {
        let (class, word) = if check.ok {
            ("pass", "ok")
        } else {
            ("fail", "failed")
        };
        let _ = writeln!(
            out,
            "<tr><td><span class=\"badge {class}\">{word}</span></td><td>{}</td><td>{}</td></tr>",
            escaped(&check.name),
            escaped(&check.detail)
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn phases(out: &mut String, outcome: &Outcome) {
    let phases = outcome.phases();
    let whole: f64 = phases.iter().map(|(_, spent)| spent.as_secs_f64()).sum();
    let whole = whole.max(1e-9);
    out.push_str("<section><h2>Where the time went</h2>\n<div class=\"bar\" aria-hidden=\"true\">");
    for (at, (_, spent)) in phases.iter().enumerate() {
        let share = spent.as_secs_f64() / whole * 100.0;
        if share >= 0.05 {
            let _ = write!(out, "<i class=\"p{at}\" style=\"width:{share:.2}%\"></i>");
        }
    }
    out.push_str(
        "</div>\n<table class=\"phases\"><thead><tr><th>Part</th><th class=\"number\">Time</th>\
         <th class=\"number\">Share</th><th>What it is</th></tr></thead><tbody>\n",
    );
    for (at, (name, spent)) in phases.iter().enumerate() {
        let known = PHASES.iter().find(|(key, _, _)| key == name);
        let (label, what) = known.map_or((*name, ""), |(_, label, what)| (*label, *what));
        let _ = writeln!(
            out,
            "<tr><td><i class=\"swatch p{at}\"></i>{label}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{:.1} %</td><td class=\"what\">{what}</td></tr>",
            render::duration(*spent),
            spent.as_secs_f64() / whole * 100.0
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn history(out: &mut String, expected: &Expected, past: &[Past]) {
    if past.is_empty() {
        return;
    }
    let bars = |value: &dyn Fn(&Past) -> Option<Duration>| -> Vec<Bar> {
        let bar = |past: &Past| {
            let time = render::time(past.time);
            let shown = value(past).map(render::duration).unwrap_or_default();
            let word = if past.ok { "passed" } else { "failed" };
            Bar {
                value: value(past),
                ok: past.ok,
                label: escaped(time.get(5..16).unwrap_or(&time)),
                title: escaped(&format!("{time} UTC: {shown}, {word}")),
            }
        };
        past.iter().map(bar).collect()
    };
    let target = |limit: Option<Duration>| {
        let told = limit.map(|limit| format!("; target {}", render::duration(limit)));
        told.unwrap_or_default()
    };
    let _ = write!(
        out,
        "<section><h2>The last {}</h2>\n<figure><figcaption>RTO, time to recover{}</figcaption>{}</figure>\n\
         <figure><figcaption>RPO, age of the snapshot{}</figcaption>{}</figure>\n",
        render::counted(past.len() as u64, "drill"),
        target(expected.rto),
        chart::bars("RTO", &bars(&|past| past.rto), expected.rto),
        target(expected.rpo),
        chart::bars("RPO", &bars(&|past| past.rpo), expected.rpo),
    );
    out.push_str(
        "<p class=\"legend\"><i class=\"swatch good\"></i>passed <i class=\"swatch bad\"></i>failed \
         <i class=\"swatch line\"></i>target</p>\n\
         <table class=\"past\"><thead><tr><th>When (UTC)</th><th>Outcome</th><th class=\"number\">RTO</th>\
         <th class=\"number\">RPO</th><th class=\"number\">Rows</th><th>What failed</th></tr></thead><tbody>\n",
    );
    let shown = |duration: Option<Duration>| duration.map(render::duration).unwrap_or_default();
    for one in past.iter().rev() {
        let (class, word) = if one.ok {
            ("pass", "ok")
        } else {
            ("fail", "failed")
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td><span class=\"badge {class}\">{word}</span></td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td></tr>",
            render::time(one.time),
            shown(one.rto),
            shown(one.rpo),
            render::count(one.rows),
            escaped(&one.failed.join(", "))
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn facts(out: &mut String, outcome: &Outcome) {
    let snapshot = &outcome.snapshot;
    let beginning = match outcome.from_recovery {
        true => "the recovery sheet and the repository's address, nothing else",
        false => "this host's own key and state",
    };
    let scratch = outcome.bytes_scratch.map(render::size);
    let rows = [
        ("Snapshot", snapshot.record.id.to_string()),
        (
            "Taken",
            format!("{} UTC", render::time(snapshot.record.taken_at)),
        ),
        ("Restored into", outcome.place.clone()),
        ("Began with", beginning.to_owned()),
        (
            "Disk used",
            scratch.unwrap_or_else(|| "on another host".into()),
        ),
        ("Made by", format!("rowvault {}", env!("CARGO_PKG_VERSION"))),
    ];
    out.push_str("<section><h2>What was drilled</h2>\n<table class=\"facts\"><tbody>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    out.push_str("</tbody></table>\n");
    if !outcome.warnings.is_empty() {
        out.push_str("<h3>Notes</h3>\n<ul>\n");
        for warning in &outcome.warnings {
            let _ = writeln!(out, "<li>{}</li>", escaped(warning));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_only_text() {
        let text = escaped("<script>alert('x')</script> \"&\u{1b}[2J");
        assert_eq!(
            text,
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &quot;&amp; [2J"
        );
    }
}
