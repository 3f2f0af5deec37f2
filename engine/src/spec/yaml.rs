//! YAML text -> a tree in which every value knows its place.
//!
//! Scalars are read by the core schema of YAML 1.2 (see `scalar`). Aliases and merge keys are
//! expanded, within limits: a small file must not become a large tree. The parser's events are used
//! as they come rather than through serde, because serde hides what is needed here: whether a
//! scalar is quoted, where a key stands, and keys that stand twice.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_yaml::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, Tag};

use crate::diagnostic::Span;
use crate::spec::findings::Findings;
use crate::spec::scalar;

/// The longest pipeline file, bytes.
const MOST_BYTES: usize = 64 << 20;
/// The most values that aliases may add.
const MOST_ALIASED: usize = 1_000_000;
/// The most values in a file.
const MOST_VALUES: usize = 4_000_000;
/// The deepest nesting, aliases expanded. Everything that walks the tree recurses no deeper.
pub(crate) const DEEPEST: usize = 128;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something whose mistake is reported already: readers pass over it in silence.
    Invalid,
}

/// One key of a mapping, in the order of the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Rc<str>,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// A mapping without entries.
    pub(crate) fn no_entries(at: Span) -> Node {
        Node { span: at, value: Value::Map(Vec::new()) }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    /// The entries of a mapping; none of anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What was found, for "must be a text, found the number 3".
    pub(crate) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value:?}"),
            Value::Text(text) if text.chars().count() <= 40 && !text.contains('\n') => {
                format!("the text `{text}`")
            }
            Value::Text(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Invalid => "something unreadable".to_owned(),
        }
    }
}

/// Reads one document. `None` when it holds nothing, or is no YAML: then that one mistake is
/// reported, since whatever followed from it would only confuse.
pub(crate) fn parse(text: &str, findings: &mut Findings) -> Option<Node> {
    if text.len() > MOST_BYTES {
        findings
            .error("too-large", Span::default(), format!("the file has {} MiB", text.len() >> 20))
            .hint(format!("a pipeline file has {} MiB at most", MOST_BYTES >> 20));
        return None;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
    };
    let mut builder = Builder {
        findings,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        document: None,
        values: 0,
        aliased: 0,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if builder.event(event, place(span)).is_err() {
                    return None;
                }
            }
            Err(error) => {
                syntax_error(text, &error, builder.findings);
                return None;
            }
        }
    }
    builder.document
}

fn place(span: granit_parser::Span) -> Span {
    let range = span.byte_range().unwrap_or(0..0);
    // A file is shorter than `MOST_BYTES`, so offsets fit.
    Span { start: range.start as u32, end: range.end as u32 }
}

fn syntax_error(text: &str, error: &granit_parser::ScanError, findings: &mut Findings) {
    let mut offset = error.marker().byte_offset().unwrap_or(0).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let line_start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or("");
    let indent = &line[..line.len() - line.trim_start().len()];
    let width = text[offset..].chars().next().map_or(0, char::len_utf8);
    let at = Span { start: offset as u32, end: (offset + width) as u32 };
    if let Some(tab) = indent.find('\t') {
        let tab = (line_start + tab) as u32;
        findings
            .error("tab", Span { start: tab, end: tab + 1 }, "a tab is used for indentation")
            .help("YAML is indented with spaces only: replace the tab with two spaces");
        return;
    }
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInIndentation => {
            findings
                .error("tab", at, "a tab stands where YAML allows only spaces")
                .help("replace the tab with spaces");
        }
        ErrorKind::RecursionLimitExceeded => report_depth(at, findings),
        ErrorKind::UnknownAnchor => {
            findings.error("alias", at, "the alias refers to no anchor above it").help(
                "write `&name` before the value to repeat; quote a text that begins with `*`",
            );
        }
        kind => {
            findings
                .error("syntax", at, format!("not valid YAML: {kind}"))
                .help(syntax_hint(line.trim_start()));
        }
    }
}

/// A guess at the usual reason, from the line where reading stopped.
fn syntax_hint(line: &str) -> &'static str {
    let value = line.split_once(": ").map_or(line, |(_, value)| value.trim_start());
    if value.starts_with(['@', '`', '%']) {
        return "quote a text that begins with this character";
    }
    if value.contains(": ") && !value.starts_with(['"', '\'', '{']) {
        return "quote a text that contains `: `";
    }
    if value.starts_with(['{', '[', '"', '\'']) {
        return "is a closing bracket or quote missing, here or above?";
    }
    "is the indentation of this line, or of the one before it, right?"
}

fn report_depth(at: Span, findings: &mut Findings) {
    findings
        .error("too-large", at, format!("values are nested more than {DEEPEST} deep"))
        .help("a pipeline needs no such depth: is this the right file?");
}

/// A collection that is not closed yet.
struct Open {
    span: Span,
    anchor: usize,
    /// Values in it so far, itself included.
    values: usize,
    /// Levels in it so far, its own included.
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(Rc<str>, Span)>, merges: Vec<Node> },
}

/// A value that aliases may repeat.
struct Anchored {
    node: Node,
    values: usize,
    height: usize,
}

struct Builder<'f> {
    findings: &'f mut Findings,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Anchored>,
    document: Option<Node>,
    values: usize,
    aliased: usize,
}

/// Reading stops: the mistake is reported.
struct Stop;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) if self.document.is_some() => {
                self.findings
                    .error("several-documents", span, "a second YAML document begins here")
                    .help("a pipeline file holds one document: remove the `---`");
                Err(Stop)
            }
            Event::Scalar(text, _, anchor, _) if self.expects_key() => {
                let key: Rc<str> = Rc::from(&*text);
                if anchor != 0 {
                    let node = Node { span, value: Value::Text(key.clone()) };
                    self.anchors.insert(anchor, Anchored { node, values: 1, height: 1 });
                }
                self.key(key, span);
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), span);
                self.place(Node { span, value }, anchor, 1, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(span, anchor, tag.as_deref(), "seq", Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), key: None, merges: Vec::new() };
                self.start(span, anchor, tag.as_deref(), "map", content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(id) => self.alias(id, span),
            _ => Ok(()),
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, text: Rc<str>, span: Span) {
        if let Some(Open { content: Content::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((text, span));
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Value {
        match tag.map(Tag::core_suffix) {
            Some(Some("str")) => Value::Text(Rc::from(text)),
            Some(Some("int" | "float" | "bool" | "null")) => {
                scalar::plain(text, span, self.findings)
            }
            Some(_) => {
                self.unknown_tag(tag, span);
                Value::Invalid
            }
            None if style == ScalarStyle::Plain => scalar::plain(text, span, self.findings),
            None => Value::Text(Rc::from(text)),
        }
    }

    fn start(
        &mut self,
        span: Span,
        anchor: usize,
        tag: Option<&Tag>,
        wanted: &str,
        content: Content,
    ) -> Result<(), Stop> {
        if self.expects_key() {
            self.findings
                .error("wrong-type", span, "a key must be a text, not a list or mapping")
                .help("quote a key that begins with `{` or `[`");
            return Err(Stop);
        }
        if tag.is_some_and(|tag| tag.core_suffix() != Some(wanted)) {
            self.unknown_tag(tag, span);
        }
        if self.open.len() >= DEEPEST {
            report_depth(span, self.findings);
            return Err(Stop);
        }
        self.open.push(Open { span, anchor, values: 1, height: 1, content });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let mut span = Span { start: open.span.start, end: end.end.max(open.span.end) };
        let value = match open.content {
            Content::List(items) => {
                // The end of a block is known only at the next line: end with the last value.
                span.end = items
                    .last()
                    .filter(|_| end.start == end.end)
                    .map_or(span.end, |last| last.span.end);
                Value::List(items)
            }
            Content::Map { entries, merges, .. } => {
                span.end = entries
                    .last()
                    .filter(|_| end.start == end.end)
                    .map_or(span.end, |last| last.value.span.end);
                Value::Map(self.finish_mapping(entries, merges))
            }
        };
        span.end = span.end.max(span.start);
        self.place(Node { span, value }, open.anchor, open.values, open.height)
    }

    /// Reports duplicate keys and merges `<<` in: what the mapping says itself wins.
    fn finish_mapping(&mut self, mut entries: Vec<Entry>, merges: Vec<Node>) -> Vec<Entry> {
        let mut first: BTreeMap<Rc<str>, Span> = BTreeMap::new();
        let findings = &mut *self.findings;
        entries.retain(|entry| {
            let Some(earlier) = first.get(&entry.key) else {
                first.insert(entry.key.clone(), entry.key_span);
                return true;
            };
            findings
                .error(
                    "duplicate-key",
                    entry.key_span,
                    format!("the key `{}` stands twice in this mapping", entry.key),
                )
                .related(*earlier, "first defined here")
                .help("remove one of the two, or rename it");
            false
        });
        for merge in merges {
            let sources = match merge.value {
                Value::List(items) => items,
                _ => vec![merge],
            };
            for source in sources {
                let Value::Map(merged) = source.value else {
                    self.findings
                        .error("wrong-type", source.span, "`<<` takes a mapping, or a list of them")
                        .help("write `<<: *anchor`, where `&anchor` stands before a mapping");
                    continue;
                };
                for entry in merged {
                    if !first.contains_key(&entry.key) {
                        first.insert(entry.key.clone(), entry.key_span);
                        entries.push(entry);
                    }
                }
            }
        }
        entries
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Stop> {
        let Some(anchored) = self.anchors.get(&id) else {
            self.findings
                .error("alias", span, "the alias refers to the value that contains it")
                .help("a value cannot contain itself");
            return Err(Stop);
        };
        if self.expects_key() {
            let Value::Text(key) = &anchored.node.value else {
                self.findings
                    .error("wrong-type", span, "a key must be a text")
                    .help("write it out");
                return Err(Stop);
            };
            let key = key.clone();
            self.key(key, span);
            return Ok(());
        }
        let (values, height) = (anchored.values, anchored.height);
        if self.open.len() + height > DEEPEST {
            report_depth(span, self.findings);
            return Err(Stop);
        }
        self.afford_aliases(values, span)?;
        let mut node = self.anchors[&id].node.clone();
        node.span = span;
        self.place(node, 0, values, height)
    }

    /// Counts the values that an alias or anchor copies, before they are copied.
    fn afford_aliases(&mut self, values: usize, at: Span) -> Result<(), Stop> {
        self.aliased += values;
        if self.aliased <= MOST_ALIASED {
            return Ok(());
        }
        self.findings
            .error("alias", at, format!("aliases expand to more than {MOST_ALIASED} values"))
            .help("repeat less by aliases: use `vars:` and `for_each:`");
        Err(Stop)
    }

    /// Puts a finished value where it belongs.
    fn place(
        &mut self,
        node: Node,
        anchor: usize,
        values: usize,
        height: usize,
    ) -> Result<(), Stop> {
        self.values += 1;
        if self.values > MOST_VALUES {
            self.findings
                .error(
                    "too-large",
                    node.span,
                    format!("the file has more than {MOST_VALUES} values"),
                )
                .help("use `for_each:` for nodes that are alike");
            return Err(Stop);
        }
        if anchor != 0 {
            // The copy is counted too: nested anchors would otherwise grow for free.
            self.afford_aliases(values, node.span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, height });
        }
        let Some(parent) = self.open.last_mut() else {
            self.document = Some(node);
            return Ok(());
        };
        parent.values += values;
        parent.height = parent.height.max(height + 1);
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key, merges } => match key.take() {
                Some((key, _)) if &*key == "<<" => merges.push(node),
                Some((key, key_span)) => entries.push(Entry { key, key_span, value: node }),
                None => {}
            },
        }
        Ok(())
    }

    fn unknown_tag(&mut self, tag: Option<&Tag>, span: Span) {
        let shown = tag.map(|tag| format!("{}{}", tag.original_handle(), tag.suffix()));
        self.findings
            .error(
                "tag",
                span,
                format!("the tag `{}` means nothing here", shown.unwrap_or_default()),
            )
            .help("remove the tag; quote a text that begins with `!`");
    }
}
