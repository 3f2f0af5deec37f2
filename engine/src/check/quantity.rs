//! Durations, amounts of memory, and what a node needs of the machine.

use crate::graph::Resources;
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Node, Value};

/// The keys of `resources:`.
pub(crate) const RESOURCE_KEYS: [&str; 3] = ["cpu", "mem", "gpu"];

/// More processor slots than any machine has.
pub(crate) const MOST_SLOTS: u32 = 65_536;

/// Ten years: longer is a slip, and would overflow when added to a clock.
const LONGEST_MS: f64 = 10.0 * 365.0 * 86_400_000.0;
/// 2^53 bytes: exact in a float, and more than any machine has.
const MOST_MEMORY: f64 = 9_007_199_254_740_992.0;

const TIME_UNITS: [(&str, f64); 5] =
    [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3), ("d", 86_400e3)];

const KIB: f64 = 1024.0;
const MEMORY_UNITS: [(&str, f64); 14] = [
    ("B", 1.0),
    ("K", KIB),
    ("KiB", KIB),
    ("kB", 1e3),
    ("KB", 1e3),
    ("M", KIB * KIB),
    ("MiB", KIB * KIB),
    ("MB", 1e6),
    ("G", KIB * KIB * KIB),
    ("GiB", KIB * KIB * KIB),
    ("GB", 1e9),
    ("T", KIB * KIB * KIB * KIB),
    ("TiB", KIB * KIB * KIB * KIB),
    ("TB", 1e12),
];

/// `timeout`, in milliseconds.
pub(crate) fn timeout(node: &Node, findings: &mut Findings) -> Option<u64> {
    duration(node, "`timeout`", findings)
}

/// `90s`, `10m`, `2h`, or a number of seconds, in milliseconds.
pub(crate) fn duration(node: &Node, what: &str, findings: &mut Findings) -> Option<u64> {
    let milliseconds = match &node.value {
        Value::Int(seconds) => Some(*seconds as f64 * 1000.0),
        Value::Float(seconds) => Some(seconds * 1000.0),
        Value::Text(text) => scaled(text, &TIME_UNITS),
        _ => {
            expect::wrong_type(node, what, "a duration", findings);
            return None;
        }
    };
    let good = milliseconds.filter(|value| (1.0..=LONGEST_MS).contains(value));
    if good.is_none() {
        findings
            .error("bad-value", node.span, format!("{what} cannot be {}", node.found()))
            .help("write a duration such as `90s`, `10m` or `2h`, or a number of seconds");
    }
    good.map(|value| value as u64)
}

/// A number followed by one of the units.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let unit_start = text.find(|other: char| !other.is_ascii_digit() && other != '.')?;
    let (number, unit) = text.split_at(unit_start);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// `resources:` of a node, over those that its stage takes.
pub(crate) fn resources(
    node: &Node,
    mut resources: Resources,
    findings: &mut Findings,
) -> Resources {
    let entries = expect::map(node, "`resources`", findings);
    expect::known_keys(entries, "`resources`", &RESOURCE_KEYS, findings);
    for entry in entries {
        let value = &entry.value;
        match &*entry.key {
            "cpu" => resources.cpu_milli = cpu(value, findings).unwrap_or(resources.cpu_milli),
            "mem" => resources.memory = memory(value, findings).unwrap_or(0),
            "gpu" => {
                let gpus = expect::whole(value, "`gpu`", (0, 1024), findings);
                resources.gpu = gpus.unwrap_or(0) as u32;
            }
            _ => {}
        }
    }
    resources
}

fn cpu(node: &Node, findings: &mut Findings) -> Option<u32> {
    let slots = match node.value {
        Value::Int(slots) => slots as f64,
        Value::Float(slots) => slots,
        _ => {
            expect::wrong_type(node, "`cpu`", "a number of processor slots", findings);
            return None;
        }
    };
    if (0.001..=f64::from(MOST_SLOTS)).contains(&slots) {
        return Some((slots * 1000.0).round() as u32);
    }
    findings
        .error("bad-value", node.span, format!("`cpu` cannot be {slots:?}"))
        .help("write a number of processor slots such as `1`, `4` or `0.5`");
    None
}

fn memory(node: &Node, findings: &mut Findings) -> Option<u64> {
    let bytes = match &node.value {
        Value::Int(bytes) => Some(*bytes as f64),
        Value::Float(bytes) => Some(*bytes),
        Value::Text(text) => scaled(text, &MEMORY_UNITS),
        _ => {
            expect::wrong_type(node, "`mem`", "an amount of memory", findings);
            return None;
        }
    };
    let good = bytes.filter(|bytes| (0.0..=MOST_MEMORY).contains(bytes));
    if good.is_none() {
        findings
            .error("bad-value", node.span, format!("`mem` cannot be {}", node.found()))
            .help("write an amount such as `512MiB` or `16GiB`, or a number of bytes");
    }
    good.map(|bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;

    fn text(text: &str) -> Node {
        Node { span: Span::default(), value: Value::Text(text.into()) }
    }

    #[test]
    fn durations_and_sizes() {
        for (written, expected) in [
            ("90s", Some(90_000)),
            ("10m", Some(600_000)),
            ("1.5h", Some(5_400_000)),
            ("250 ms", Some(250)),
            ("10", None),
            ("ten", None),
            ("0s", None),
            ("9999999d", None),
        ] {
            assert_eq!(timeout(&text(written), &mut Findings::default()), expected, "{written}");
        }
        for (written, expected) in [
            ("16GiB", Some(16 << 30)),
            ("1.5G", Some(3 << 29)),
            ("1kB", Some(1000)),
            ("7 chairs", None),
        ] {
            assert_eq!(memory(&text(written), &mut Findings::default()), expected, "{written}");
        }
    }
}
