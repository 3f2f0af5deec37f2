//! A plan's bill as tables.

use okapi_engine::bill::{Bill, BillOfNode, Charges};

use crate::ui::{format, table};

/// The widest name of a node.
const NAME: usize = 26;
/// So many nodes are named in a sentence.
const NAMED: usize = 6;
/// How wide lines of text may be.
const WIDTH: usize = 118;

/// The bill, if there is anything on it that has a price or takes a model's time; with `all`, each node by language.
pub(crate) fn render(bill: &Bill, all: bool) -> String {
    let total = &bill.total;
    let is_worth_saying = total.requests + total.recorded + total.unforeseen > 0
        || total.reckoned + total.unreckoned > 0
        || bill.nodes.iter().any(|node| node.charges.gpu_ms > 0);
    if !is_worth_saying {
        return String::new();
    }
    let mut rows = vec![heading("by node")];
    for node in bill.nodes.iter().filter(|node| !is_empty(&node.charges)) {
        rows.extend(of_node(node, all));
    }
    if !bill.languages.is_empty() {
        rows.push(Vec::new());
        rows.push(heading("by language"));
        let languages = bill.languages.iter().filter(|it| !is_empty(&it.charges));
        rows.extend(languages.map(|it| line(it.lang.clone(), &it.charges)));
    }
    rows.push(Vec::new());
    rows.push(line("in all".to_owned(), total));
    let mut text = format!("\n{}", table::render_numbers(&rows));
    let mut say = |told: String| text.push_str(&wrapped(&told));
    if total.blocked > 0 {
        let nodes = format::count(total.blocked, "instance");
        say(format!("{nodes} of these cannot run on this machine, or need one that cannot"));
    }
    if total.unpriced > 0 {
        let nodes = format::count(total.unpriced, "instance");
        say(format!("price unknown: {nodes}; give the teacher `input_price` and `output_price`"));
    }
    if total.unforeseen > 0 {
        let nodes = format::count(total.unforeseen, "instance");
        say(format!("requests unknown: {nodes} whose inputs must be there first"));
    }
    if total.unreckoned > 0 {
        let nodes = format::count(total.unreckoned, "instance");
        let named = names(bill, |charges| charges.unreckoned > 0);
        say(format!(
            "time and disk unknown: {nodes} of {named}; say how large a model will be (`like`), and how many rows there will be \
             (`expected_rows`)"
        ));
    }
    if total.repeated > 0 {
        let nodes = format::count(total.repeated, "instance");
        let named = names(bill, |charges| charges.repeated > 0);
        say(format!(
            "{nodes} of {named} are the same actions as others, and are on this bill once"
        ));
    }
    for assumption in &bill.assumptions {
        say(format!("assumed: {assumption}"));
    }
    text.push('\n');
    text
}

/// The first of the nodes whose charges are such, and how many more there are.
fn names(bill: &Bill, are_such: impl Fn(&Charges) -> bool) -> String {
    let found: Vec<_> = bill.nodes.iter().filter(|node| are_such(&node.charges)).collect();
    let named = found.iter().take(NAMED).map(|node| format!("`{}`", node.node));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if found.len() > NAMED {
        text.push_str(&format!(" and {} more nodes", found.len() - NAMED));
    }
    text
}

fn of_node(node: &BillOfNode, all: bool) -> Vec<Vec<String>> {
    let mut name: String = node.node.chars().take(NAME).collect();
    if name.len() < node.node.len() {
        name.pop();
        name.push('…');
    }
    let mut rows = vec![line(name, &node.charges)];
    if all {
        rows.extend(node.languages.iter().map(|it| line(format!("  {}", it.lang), &it.charges)));
    }
    rows
}

fn heading(what: &str) -> Vec<String> {
    let names = [
        what,
        "instances",
        "requests",
        "tokens in",
        "tokens out",
        "cost",
        "GPU",
        "processor",
        "disk",
    ];
    names.map(str::to_owned).to_vec()
}

fn is_empty(charges: &Charges) -> bool {
    Charges { instances: 0, blocked: 0, repeated: 0, ..*charges } == Charges::default()
}

fn line(name: String, charges: &Charges) -> Vec<String> {
    let or_dash = |number: u64, text: fn(u64) -> String| match number {
        0 => "-".to_owned(),
        number => text(number),
    };
    let cost = match (charges.requests, charges.unpriced, charges.nano_usd) {
        (0, ..) => "-".to_owned(),
        (_, 0, usd) => format::money(usd),
        (_, _, 0) => "unknown".to_owned(),
        (.., usd) => format!("> {}", format::money(usd)),
    };
    let requests = match (charges.requests, charges.unforeseen) {
        (0, 1..) => "unknown".to_owned(),
        (requests, _) => or_dash(requests, format::thousands),
    };
    // Whatever it is, it is more.
    let known = charges.gpu_ms + charges.processor_ms > 0;
    let time = |ms: u64| match (ms, charges.unreckoned) {
        (0, 1..) if !known => "unknown".to_owned(),
        (1.., 1..) => format!("> {}", format::hours(ms)),
        (ms, _) => or_dash(ms, format::hours),
    };
    vec![
        name,
        format::thousands(charges.instances),
        requests,
        or_dash(charges.prompt_tokens, format::rounded),
        or_dash(charges.completion_tokens, format::rounded),
        cost,
        time(charges.gpu_ms),
        time(charges.processor_ms),
        or_dash(charges.disk_bytes, format::size),
    ]
}

/// A text in lines, those after the first a little to the right.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines.push('\n');
    lines
}
