//! Who reads whom in a past run, as far as its results tell.
//!
//! A manifest has the action of each instance, and an action names what it reads by content. So an instance reads from
//! whoever made that content: from one where one made it, from any of them where several made the same. An empty file
//! says nothing of who made it and is left out. What a result made that has been collected is not known: then nobody
//! is known to read it.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{Digest, Store, StoreError};
use serde::Deserialize;
use serde_json::Value;

use crate::action::parse_artifact;
use crate::manifest::Manifest;

/// What each instance of a past run made and read.
#[derive(Debug, Default)]
pub struct Readers<'a> {
    makers: BTreeMap<Digest, Vec<&'a str>>,
    instances: BTreeMap<&'a str, Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    made: BTreeSet<Digest>,
    read: BTreeSet<Digest>,
}

/// What of an action document is looked at.
#[derive(Deserialize)]
struct Inputs {
    #[serde(default)]
    inputs: BTreeMap<String, Value>,
}

impl<'a> Readers<'a> {
    /// Looks through the results of a run.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of(store: &Store, manifest: &'a Manifest) -> Result<Readers<'a>, StoreError> {
        let mut readers = Readers::default();
        for (name, action) in manifest.iter() {
            let mut contents = Contents::default();
            for output in store.lookup(&action).iter().flat_map(|cached| cached.outputs()) {
                if output.size > 0 && contents.made.insert(output.digest) {
                    readers.makers.entry(output.digest).or_default().push(name);
                }
            }
            if let Some(stored) = store.document(&action)? {
                contents.read = contents_read(&stored.document);
            }
            readers.instances.insert(name, contents);
        }
        Ok(readers)
    }

    /// The contents that only such instances made.
    pub fn made_only_by(&self, such: impl Fn(&str) -> bool) -> BTreeSet<Digest> {
        let contents = self.makers.iter();
        contents
            .filter(|(_, makers)| makers.iter().all(|maker| such(maker)))
            .map(|(content, _)| *content)
            .collect()
    }

    /// How far each instance is from the results: 0 for one that no other reads, and for any other one more than the
    /// farthest of its readers has.
    ///
    /// Instances that pass on what they read seem to read each other, for they made the same content. A circle of
    /// such instances is one step.
    pub fn steps_from_results(&self) -> BTreeMap<&'a str, usize> {
        // How many instances without a place read each content.
        let mut open: BTreeMap<Digest, usize> = BTreeMap::new();
        for contents in self.instances.values() {
            for content in contents.read.iter().filter(|it| self.makers.contains_key(*it)) {
                *open.entry(*content).or_default() += 1;
            }
        }
        let mut steps = BTreeMap::new();
        let mut waiting: BTreeSet<&str> = self.instances.keys().copied().collect();
        let mut read_by_placed = BTreeSet::new();
        let mut next: BTreeSet<&str> =
            waiting.iter().copied().filter(|name| self.is_free(name, &open)).collect();
        for step in 0.. {
            if waiting.is_empty() {
                break;
            }
            if next.is_empty() {
                next = self.out_of_a_circle(&waiting, &read_by_placed);
            }
            let mut candidates: BTreeSet<&str> = BTreeSet::new();
            for name in std::mem::take(&mut next) {
                waiting.remove(name);
                steps.insert(name, step);
                for content in &self.instances[name].read {
                    let Some(readers) = open.get_mut(content) else { continue };
                    *readers -= 1;
                    read_by_placed.insert(*content);
                    // The one that is left may be a maker itself.
                    if *readers <= 1 {
                        candidates.extend(&self.makers[content]);
                    }
                }
            }
            next = candidates
                .into_iter()
                .filter(|name| waiting.contains(name) && self.is_free(name, &open))
                .collect();
        }
        steps
    }

    /// Whether every other instance that reads what this one made has its place.
    fn is_free(&self, name: &str, open: &BTreeMap<Digest, usize>) -> bool {
        let Contents { made, read } = &self.instances[name];
        made.iter().all(|content| {
            let itself = usize::from(read.contains(content));
            open.get(content).is_none_or(|readers| *readers <= itself)
        })
    }

    /// Those that an instance with a place reads, or all where there is none.
    fn out_of_a_circle(
        &self,
        waiting: &BTreeSet<&'a str>,
        read_by_placed: &BTreeSet<Digest>,
    ) -> BTreeSet<&'a str> {
        let is_read = |name: &&str| !self.instances[name].made.is_disjoint(read_by_placed);
        let near: BTreeSet<_> = waiting.iter().copied().filter(is_read).collect();
        if near.is_empty() { waiting.clone() } else { near }
    }
}

fn contents_read(document: &str) -> BTreeSet<Digest> {
    let Ok(Inputs { inputs }) = serde_json::from_str(document) else { return BTreeSet::new() };
    let mut read = BTreeSet::new();
    let mut note = |value: &Value| {
        read.extend(value.as_str().and_then(parse_artifact).map(|(_, digest)| digest));
    };
    for input in inputs.values() {
        match input {
            Value::Object(gathered) => gathered.values().for_each(&mut note),
            single => note(single),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instances with the contents that each made and read, a letter each.
    fn readers(instances: &[(&'static str, &str, &str)]) -> Readers<'static> {
        let digests = |letters: &str| -> BTreeSet<Digest> {
            letters.bytes().map(|letter| Digest::of(&[letter])).collect()
        };
        let mut readers = Readers::default();
        for &(name, made, read) in instances {
            let contents = Contents { made: digests(made), read: digests(read) };
            for content in &contents.made {
                readers.makers.entry(*content).or_default().push(name);
            }
            readers.instances.insert(name, contents);
        }
        readers
    }

    fn check(instances: &[(&'static str, &str, &str)], expected: &[(&str, usize)]) {
        let steps = readers(instances).steps_from_results();
        assert_eq!(steps.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn steps_are_counted_along_the_longest_way() {
        check(
            &[("data", "d", ""), ("model", "m", "d"), ("score", "s", "md"), ("table", "t", "d")],
            &[("data", 2), ("model", 1), ("score", 0), ("table", 0)],
        );
    }

    #[test]
    fn one_that_passes_on_what_it_reads_is_between_its_neighbours() {
        check(
            &[("clean", "d", "d"), ("data", "d", ""), ("model", "m", "d")],
            &[("clean", 1), ("data", 2), ("model", 0)],
        );
    }

    #[test]
    fn a_circle_is_one_step_and_hides_nothing_behind_it() {
        check(
            &[
                ("a", "x", "x"),
                ("b", "x", "x"),
                ("end", "e", "x"),
                ("from", "f", ""),
                ("x", "x", "f"),
            ],
            &[("a", 1), ("b", 1), ("end", 0), ("from", 2), ("x", 1)],
        );
        check(&[("a", "x", "x"), ("b", "x", "x")], &[("a", 0), ("b", 0)]);
    }

    #[test]
    fn a_content_is_made_only_by_some_if_no_other_made_it_too() {
        let readers = readers(&[("a", "xy", ""), ("b", "y", "")]);
        assert_eq!(readers.made_only_by(|name| name == "a"), BTreeSet::from([Digest::of(b"x")]));
    }

    #[test]
    fn gathered_inputs_are_read_too() {
        let digest = Digest::of(b"x");
        let document = format!(
            r#"{{"action":1,"inputs":{{"all":{{"n=1":"file:{digest}"}},"one":"tree:{}"}}}}"#,
            Digest::of(b"y")
        );
        assert_eq!(contents_read(&document), BTreeSet::from([digest, Digest::of(b"y")]));
        assert_eq!(contents_read(r#"{"action":1}"#), BTreeSet::new());
    }
}
