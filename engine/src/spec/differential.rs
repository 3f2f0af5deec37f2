//! Our reading of YAML against that of `serde_yaml` 0.9, which most tools share, where both should
//! agree. Where they differ on purpose (duplicate keys, merge keys, numbers in disguise, numbers
//! that do not fit) nothing is compared.

use std::path::Path;

use proptest::prelude::*;
use serde_yaml_reference::Value as Theirs;

use crate::spec::findings::Findings;
use crate::spec::yaml::{Node, Value, parse};

/// Our value in their type.
fn ours(node: &Node) -> Theirs {
    match &node.value {
        Value::Null | Value::Invalid => Theirs::Null,
        Value::Bool(value) => Theirs::Bool(*value),
        Value::Int(value) => Theirs::Number((*value).into()),
        Value::Float(value) => Theirs::Number((*value).into()),
        Value::Text(text) => Theirs::String(text.to_string()),
        Value::List(items) => Theirs::Sequence(items.iter().map(ours).collect()),
        Value::Map(entries) => Theirs::Mapping(
            entries
                .iter()
                .map(|entry| (Theirs::String(entry.key.to_string()), ours(&entry.value)))
                .collect(),
        ),
    }
}

/// Keys are texts with us, whatever they look like.
fn with_text_keys(value: Theirs) -> Option<Theirs> {
    Some(match value {
        Theirs::Mapping(entries) => {
            let mut kept = serde_yaml_reference::Mapping::new();
            for (key, value) in entries {
                let Theirs::String(_) = key else { return None };
                kept.insert(key, with_text_keys(value)?);
            }
            Theirs::Mapping(kept)
        }
        Theirs::Sequence(items) => {
            Theirs::Sequence(items.into_iter().map(with_text_keys).collect::<Option<_>>()?)
        }
        Theirs::Tagged(_) => return None,
        other => other,
    })
}

/// Both readings of a text that both accept and neither has anything to say about.
fn both(text: &str) -> Option<(Theirs, Theirs)> {
    let mut findings = Findings::default();
    let node = parse(text, &mut findings)?;
    if !findings.finish(Path::new("x"), text, &[]).items.is_empty() {
        return None;
    }
    let theirs: Theirs = serde_yaml_reference::from_str(text).ok()?;
    Some((ours(&node), with_text_keys(theirs)?))
}

#[test]
fn documents_agree() {
    for text in [
        "a: 1\nb: [x, 'y', \"z\\n\", no, true, ~, 1.5, 1e3, -2]\n",
        "a: |\n  line\n  more\nb: >-\n  folded\n  text\n",
        "- {a: {b: {c: []}}}\n-\n- - x\n  - y\n",
        "a: &x {k: v}\nb: *x\n",
        "\"quoted key\": 'it''s'\nplain key: a b c\n",
        "a: 0x1F\nb: 0o17\nc: +12\nd: 12:30\ne: 2024-01-01\nf: .5\n",
        "# only\na: b # comment\n",
    ] {
        let (ours, theirs) = both(text).expect(text);
        assert_eq!(ours, theirs, "{text}");
    }
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        proptest::num::f64::NORMAL.prop_map(serde_json::Value::from),
        ".{0,12}".prop_map(serde_json::Value::from),
        "(no|yes|on|off|true|null|~|010|1_000|1e3|0x1F|\\.5|<<|=|-|\\*a|&a|!t)"
            .prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_they_write_is_read_as_they_read_it(value in tree()) {
        let text = serde_yaml_reference::to_string(&value).unwrap();
        if let Some((ours, theirs)) = both(&text) {
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }

    /// Scalars of the characters that matter, where a difference would be a trap.
    #[test]
    fn plain_scalars_agree(text in "[-+]?[0-9a-fx_.eE:~]{1,7}") {
        // Theirs reads `0b101`, which YAML 1.2 does not know, and `0x` after a sign, likewise.
        let unsigned = text.trim_start_matches(['-', '+']);
        let signed_prefix = unsigned != text && (unsigned.starts_with("0x") || unsigned.starts_with("0o"));
        prop_assume!(!unsigned.starts_with("0b") && !signed_prefix);
        if let Some((ours, theirs)) = both(&format!("a: {text}\n")) {
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }

    #[test]
    fn nothing_panics_and_spans_lie_in_the_text(text in "[ \\n\\t:\\-\\[\\]{}&*!|>'\"%@`#,?a-c0-1é🦀<=~.]{0,60}") {
        let mut findings = Findings::default();
        let node = parse(&text, &mut findings);
        let mut open: Vec<&Node> = node.iter().collect();
        while let Some(node) = open.pop() {
            let (start, end) = (node.span.start as usize, node.span.end as usize);
            prop_assert!(start <= end && text.get(start..end).is_some(), "{:?} in {:?}", node, text);
            match &node.value {
                Value::List(items) => open.extend(items),
                Value::Map(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
                _ => {}
            }
        }
        for item in findings.finish(Path::new("x"), &text, &[]).items {
            prop_assert!(text.get(item.span.start as usize..item.span.end as usize).is_some(), "{item:?}");
        }
    }
}
