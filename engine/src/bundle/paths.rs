//! Which paths in a text say something of a machine, known by their form alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Folders that every machine has.
const OF_SYSTEMS: [&str; 14] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "nix", "proc", "run", "sbin", "sys",
    "tmp", "usr",
];

/// Folders in which people have what is theirs.
const HOMES: [&str; 3] = ["Users", "home", "homes"];

/// Folders in which laboratories keep what is theirs.
const OF_PEOPLE: [&str; 24] = [
    "Volumes",
    "afs",
    "archive",
    "beegfs",
    "cluster",
    "data",
    "export",
    "gpfs",
    "lustre",
    "media",
    "mnt",
    "net",
    "nfs",
    "opt",
    "project",
    "projects",
    "root",
    "scratch",
    "share",
    "shared",
    "srv",
    "storage",
    "work",
    "workspace",
];

/// The first absolute path in a text that says something of a machine: none of the folders that all have, and not what merely
/// begins with a slash.
pub(super) fn absolute_path(text: &str) -> Option<&str> {
    let mut at = 0;
    while let Some(found) = text[at..].find('/') {
        let start = at + found;
        let slashes = text[start..].len() - text[start..].trim_start_matches('/').len();
        // `//home/x` is `/home/x`.
        let last = start + slashes - 1;
        at = start + slashes;
        let Some(begins) = beginning(&text[..start], slashes) else { continue };
        let path = path_at(&text[last..]);
        if says_something(path, begins) {
            return Some(path);
        }
        at = last + path.len().max(1);
    }
    None
}

/// How a path begins.
#[derive(Clone, Copy, PartialEq)]
enum Beginning {
    /// After what is no part of a path.
    Plain,
    /// After a `}`: most likely that of a variable whose value goes before.
    AfterVariable,
}

/// How a path may begin behind this text with so many slashes; `None` where it goes on instead.
fn beginning(before: &str, slashes: usize) -> Option<Beginning> {
    let Some(last) = before.chars().next_back() else { return Some(Beginning::Plain) };
    // Of an address, but for that of a file, this is the host.
    if last == ':' && slashes == 2 {
        return is_word_before(before.trim_end_matches(':'), "file").then_some(Beginning::Plain);
    }
    if last == '}' {
        return Some(Beginning::AfterVariable);
    }
    let goes_on = |it: char| it.is_alphanumeric() || "._-~$%*)]\\".contains(it);
    if !goes_on(last) {
        return Some(Beginning::Plain);
    }
    // `-I/path`, `-L/path`: a flag and its value.
    let word = before.rsplit(|it: char| !goes_on(it)).next().unwrap_or_default();
    let is_flag = word
        .strip_prefix('-')
        .is_some_and(|it| !it.is_empty() && it.chars().all(|letter| letter.is_ascii_alphabetic()));
    is_flag.then_some(Beginning::Plain)
}

/// Whether a text ends with this word.
fn is_word_before(text: &str, word: &str) -> bool {
    let before = text.strip_suffix(word).map(|rest| rest.chars().next_back());
    before.is_some_and(|it| !it.is_some_and(char::is_alphanumeric))
}

/// The path that a text begins with.
fn path_at(text: &str) -> &str {
    let is_part =
        |it: char| it.is_alphanumeric() || matches!(it, '/' | '.' | '_' | '-' | '+' | '~' | '$');
    let length = text.find(|it: char| !is_part(it)).unwrap_or(text.len());
    text[..length].trim_end_matches(['/', '.'])
}

fn says_something(path: &str, begins: Beginning) -> bool {
    let Some((first, below)) = path.trim_start_matches('/').split_once('/') else { return false };
    if below.is_empty() {
        return false;
    }
    if HOMES.contains(&first) {
        return true;
    }
    if begins == Beginning::AfterVariable {
        return false;
    }
    match first {
        "run" => below.starts_with("user/"),
        // What a program makes there has a name that it thinks of; what lies there was made by somebody.
        "tmp" => is_there(first, below),
        "etc" => is_there(first, below) && !is_of_root(first, below),
        _ if OF_SYSTEMS.contains(&first) => false,
        _ => OF_PEOPLE.contains(&first) || Path::new("/").join(first).is_dir(),
    }
}

/// The path of the first part below a folder of the system.
fn entry(first: &str, below: &str) -> std::path::PathBuf {
    Path::new("/").join(first).join(below.split('/').next().unwrap_or_default())
}

fn is_there(first: &str, below: &str) -> bool {
    entry(first, below).symlink_metadata().is_ok()
}

fn is_of_root(first: &str, below: &str) -> bool {
    entry(first, below).symlink_metadata().is_ok_and(|it| it.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_say_something_of_a_machine_are_known_by_their_form() {
        for (text, path) in [
            ("source: /data/seeds/a.jsonl", Some("/data/seeds/a.jsonl")),
            ("PYTHONPATH=/usr/lib/x:/opt/lab/lib.", Some("/opt/lab/lib")),
            ("cat '/home/anna/x'", Some("/home/anna/x")),
            ("https://example.org/data/x and s3://bucket/data/x", None),
            ("/usr/bin/python3 x > /dev/null; /tmp/x-that-nobody-made", None),
            ("and/or, 1/2, sed s/data/x/, /", None),
            ("/no-such-folder-here/x", None),
            ("/data", None),
            ("file:///home/anna/x", Some("/home/anna/x")),
            ("file://host/home/anna/x", None),
            ("//home/anna/x", Some("/home/anna/x")),
            ("cc -I/home/anna/x", Some("/home/anna/x")),
            ("mono-or-multi/data/x, a-I/data/x, x-/data/y", None),
            ("#/home/anna/x", Some("/home/anna/x")),
            ("a+/srv/anna/x", Some("/srv/anna/x")),
            ("${x}/home/anna/x", Some("/home/anna/x")),
            ("${vars.root}/data/x, $ROOT/data/x, ~/data/x, ../data/x", None),
            ("/homes/anna/x", Some("/homes/anna/x")),
            ("/export/home/anna", Some("/export/home/anna")),
            ("/storage/a /cluster/b", Some("/storage/a")),
            ("/cluster/b", Some("/cluster/b")),
            ("/workspace/b", Some("/workspace/b")),
            ("/run/user/1000/bus", Some("/run/user/1000/bus")),
            ("/run/lock/x", None),
            ("/etc/passwd", None),
            ("http:///home/anna/x", Some("/home/anna/x")),
        ] {
            assert_eq!(absolute_path(text), path, "{text}");
        }
        let folder = tempfile::Builder::new().prefix("anna-").tempdir_in("/tmp").unwrap();
        let path = folder.path().join("x").display().to_string();
        assert_eq!(absolute_path(&path), Some(&*path));
    }
}
