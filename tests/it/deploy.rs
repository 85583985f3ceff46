//! What stands in `deploy/` speaks of things that there are.

use std::collections::BTreeSet;

#[test]
fn alerts_use_metrics_that_there_are() {
    let alerts = include_str!("../../deploy/prometheus/alerts.yml");
    let metrics = include_str!("../../src/daemon/metrics.rs");
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let used: BTreeSet<&str> = alerts
        .split(word)
        .filter_map(|word| word.strip_prefix("rowvault_"))
        .collect();
    assert!(used.len() >= 6, "{used:?}");
    for name in used {
        let base = ["_seconds", "_bytes", "_total"]
            .iter()
            .find_map(|unit| name.strip_suffix(unit))
            .unwrap_or(name);
        assert!(metrics.contains(&format!("\"{base}\"")), "{name}");
    }
}
