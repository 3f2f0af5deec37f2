//! In what two artifacts differ, as a person wants to know it: the file, and in it the line, the member or the byte.

use std::io::{self, BufReader, Read};
use std::path::Path;

use okapi_cache::{Artifact, ArtifactKind, Digest, Store, StoreError, TreeEntry};
use serde_json::Value;

/// Texts longer than this are compared byte by byte.
const LONGEST_TEXT: u64 = 256 << 20;

/// More differences of one folder are not listed.
const LISTED: usize = 10;

/// More of a value is not shown.
const LONGEST_VALUE: usize = 60;

/// A difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What differs, and how.
    pub what: String,
    /// How far numbers lie apart at most, as a share of the largest of them, where numbers are all that differs.
    pub relative: Option<f64>,
}

/// Compares two files of one name, recorded and new, whose format the engine does not know; `None` where it is not known
/// there either.
pub type Formats<'a> = dyn Fn(&Path, &Path) -> Option<Difference> + 'a;

/// In what two artifacts differ, each in its store: the recorded one and another.
///
/// # Errors
/// When a store cannot be read.
pub fn difference(
    (old_store, old): (&Store, &Artifact),
    (new_store, new): (&Store, &Artifact),
    formats: &Formats<'_>,
) -> Result<Difference, StoreError> {
    let files = |old: &Digest, new: &Digest| {
        of_files(&old_store.object_path(old), &new_store.object_path(new), formats)
    };
    match (old.kind, new.kind) {
        (was, is) if was != is => {
            let (was, is) = (was.in_words(), is.in_words());
            let what = format!(": {was} is recorded, {is} comes out");
            Ok(Difference { what, relative: None })
        }
        _ if old.digest == new.digest => {
            let what = format!(": {} bytes are recorded, {} come out", old.size, new.size);
            Ok(Difference { what, relative: None })
        }
        (ArtifactKind::File, _) => {
            let found = files(&old.digest, &new.digest);
            found.map_err(|error| StoreError::io(new_store.root(), error))
        }
        (ArtifactKind::Tree, _) => {
            let (old, new) = (old_store.read_tree(&old.digest)?, new_store.read_tree(&new.digest)?);
            let mut all: Vec<Difference> = Vec::new();
            let plain = |what: String| Difference { what, relative: None };
            let find = |entries: &'_ [TreeEntry], path: &str| -> Option<TreeEntry> {
                // A tree is sorted by path.
                let place = entries.binary_search_by(|entry| entry.path().cmp(path)).ok()?;
                entries.get(place).cloned()
            };
            for entry in &new.entries {
                if find(&old.entries, entry.path()).is_none() {
                    all.push(plain(format!("`{}` comes out and is not recorded", entry.path())));
                }
            }
            for entry in &old.entries {
                let path = entry.path();
                match (entry, find(&new.entries, path)) {
                    (_, None) => {
                        all.push(plain(format!("`{path}` is recorded and does not come out")));
                    }
                    (was, Some(is)) if *was == is => {}
                    (
                        TreeEntry::File { digest: was, .. },
                        Some(TreeEntry::File { digest: is, .. }),
                    ) if *was != is => {
                        let found = files(was, &is);
                        let found =
                            found.map_err(|error| StoreError::io(new_store.root(), error))?;
                        let what = format!("file `{path}`{}", found.what);
                        all.push(Difference { what, ..found });
                    }
                    _ => {
                        all.push(plain(format!("`{path}` is of another kind or has other rights")));
                    }
                }
            }
            Ok(joined(all))
        }
    }
}

/// Several as one.
fn joined(all: Vec<Difference>) -> Difference {
    let relative = all.iter().map(|it| it.relative).reduce(|one, other| Some(one?.max(other?)));
    let more = all.len().saturating_sub(LISTED);
    let mut what: Vec<String> = all.into_iter().take(LISTED).map(|it| it.what).collect();
    if more > 0 {
        what.push(format!("and {more} more"));
    }
    Difference { what: format!(": {}", what.join("; ")), relative: relative.flatten() }
}

fn of_files(old: &Path, new: &Path, formats: &Formats<'_>) -> io::Result<Difference> {
    if let Some(found) = formats(old, new) {
        return Ok(found);
    }
    let what = match (text(old)?, text(new)?) {
        (Some(old), Some(new)) => of_texts(&old, &new),
        _ => of_bytes(old, new)?,
    };
    Ok(Difference { what, relative: None })
}

fn text(path: &Path) -> io::Result<Option<String>> {
    if std::fs::metadata(path)?.len() > LONGEST_TEXT {
        return Ok(None);
    }
    Ok(String::from_utf8(std::fs::read(path)?).ok())
}

fn of_texts(old: &str, new: &str) -> String {
    let mut lines = old.split('\n').zip(new.split('\n')).enumerate();
    let Some((number, (was, is))) = lines.find(|(_, (was, is))| was != is) else {
        let (was, is) = (old.split('\n').count(), new.split('\n').count());
        return format!(": {} line ends are recorded, {} come out", was - 1, is - 1);
    };
    let place = format!(", line {}", number + 1);
    let parsed = (serde_json::from_str(was), serde_json::from_str(is));
    if let (Ok(was), Ok(is)) = &parsed
        && let Some((path, was, is)) = of_values(was, is)
    {
        let path = if path.is_empty() { String::new() } else { format!(", `{path}`") };
        let (was, is) = shown(&was, &is);
        return format!("{place}{path}: {was} is recorded, {is} comes out");
    }
    let (was, is) = shown(was, is);
    format!("{place}: {was} is recorded, {is} comes out")
}

/// The first member that differs, by its path, with both values.
fn of_values(old: &Value, new: &Value) -> Option<(String, String, String)> {
    let below = |step: String, was: &Value, is: &Value| {
        let (path, was, is) = of_values(was, is)?;
        let path = if path.is_empty() { step } else { format!("{step}.{path}") };
        Some((path, was, is))
    };
    match (old, new) {
        (Value::Object(was), Value::Object(is)) => {
            let names: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
            let value = |of: &serde_json::Map<String, Value>, name: &str| {
                of.get(name).cloned().unwrap_or(Value::Null)
            };
            names
                .into_iter()
                .find_map(|name| below(name.clone(), &value(was, name), &value(is, name)))
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            let mut items = was.iter().zip(is).enumerate();
            items.find_map(|(place, (was, is))| below(place.to_string(), was, is))
        }
        _ if old == new => None,
        _ => Some((String::new(), old.to_string(), new.to_string())),
    }
}

fn of_bytes(old: &Path, new: &Path) -> io::Result<String> {
    let (was, is) = (std::fs::metadata(old)?.len(), std::fs::metadata(new)?.len());
    let bytes = |path| io::Result::Ok(BufReader::new(std::fs::File::open(path)?).bytes());
    for (place, (was, is)) in bytes(old)?.zip(bytes(new)?).enumerate() {
        if was? != is? {
            return Ok(format!(", byte {place}"));
        }
    }
    Ok(format!(": {was} bytes are recorded, {is} come out"))
}

/// Two texts as they are shown: of long ones what is around the first difference.
fn shown(was: &str, is: &str) -> (String, String) {
    let same = was.chars().zip(is.chars()).take_while(|(was, is)| was == is).count();
    let longest = was.chars().count().max(is.chars().count());
    let skipped = if longest > LONGEST_VALUE { same.saturating_sub(LONGEST_VALUE / 3) } else { 0 };
    let show = |text: &str| {
        let before = if skipped > 0 { "... " } else { "" };
        let part: String = text.chars().skip(skipped).take(LONGEST_VALUE).collect();
        let after = if text.chars().count() > skipped + LONGEST_VALUE { " ..." } else { "" };
        format!("`{before}{part}{after}`")
    };
    (show(was), show(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(of_texts("a\nb\n", "a\nc\n"), ", line 2: `b` is recorded, `c` comes out");
        assert_eq!(of_texts("a\n", "a\nc\n"), ", line 2: `` is recorded, `c` comes out");
        assert_eq!(of_texts("a", "a\n"), ": 0 line ends are recorded, 1 come out");
        assert_eq!(of_texts("1\n", "2\n"), ", line 1: `1` is recorded, `2` comes out");
        let long = "a".repeat(100);
        assert_eq!(
            of_texts(&format!("{long}b"), &format!("{long}c")),
            ", line 1: `... aaaaaaaaaaaaaaaaaaaab` is recorded, `... aaaaaaaaaaaaaaaaaaaac` comes out"
        );
        assert_eq!(
            of_texts("{\"a\":{\"b\":[1,2]}}\n", "{\"a\":{\"b\":[1,3]}}\n"),
            ", line 1, `a.b.1`: `2` is recorded, `3` comes out"
        );
    }

    #[test]
    fn trees_are_compared_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::audit::reexecute::scratch_store(&folder.path().join("store")).unwrap();
        let tree = |files: &[(&str, &[u8])]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in files {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
            store.ingest(folder.path(), ArtifactKind::Tree).unwrap()
        };
        let old = tree(&[("a.bin", &[0, 255, 1]), ("b", b"x"), ("c", b"x")]);
        let new = tree(&[("a.bin", &[0, 255, 2]), ("b", b"x"), ("d", b"x")]);
        let found = difference((&store, &old), (&store, &new), &|_, _| None).unwrap();
        assert_eq!(
            found.what,
            ": `d` comes out and is not recorded; file `a.bin`, byte 2; `c` is recorded and does not come out"
        );
        let close = |_: &Path, _: &Path| {
            Some(Difference { what: ", tensor `w`".to_owned(), relative: Some(0.5) })
        };
        let new = tree(&[("a.bin", &[0, 255, 2]), ("b", b"x"), ("c", b"x")]);
        let found = difference((&store, &old), (&store, &new), &close).unwrap();
        assert_eq!(
            (found.what.as_str(), found.relative),
            (": file `a.bin`, tensor `w`", Some(0.5))
        );
    }
}
