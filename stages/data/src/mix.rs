//! Data sets -> one: put together, ordered, sampled, split.
//!
//! All chance comes from digests: a row's place in a random order is the BLAKE3 digest of the seed,
//! its input's key and its id. So the order depends on nothing else, a sample of 100 is part of the
//! sample of 200, and a row that is added or edited leaves the places of the others alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::DataError;
use crate::import::RowKind;

/// A file of rows, and the name it has among the inputs.
#[derive(Debug, Clone)]
pub struct MixInput {
    /// Unique among the inputs.
    pub key: String,
    /// JSON lines.
    pub path: PathBuf,
}

/// In which order rows come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Input after input, each in its order.
    Given,
    /// At random.
    Shuffled,
    /// The first row of each input, then the second of each, and so on.
    Interleaved,
}

/// How much goes to `data`; what is left goes to `rest`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Everything.
    All,
    /// So many.
    Count(u64),
    /// This share of all, from 0 to 1, rounded to whole numbers.
    Share(f64),
}

/// Which rows go to `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// Any, at random.
    Random,
    /// The first ones, in the order of the inputs.
    First,
}

/// How data sets are mixed.
#[derive(Debug, Clone)]
pub struct MixOptions {
    /// What the rows are.
    pub kind: RowKind,
    /// In which order they come out.
    pub order: Order,
    /// How many are taken.
    pub amount: Amount,
    /// Which.
    pub choose: Choose,
    /// Whether ids are counted and chosen instead of rows: all rows of an id, of whatever input, go
    /// to one side, so that a split does not put a row here and its translation there.
    pub by_id: bool,
    /// Whether each input gives as many as the others, as far as it has them.
    pub per_input: bool,
    /// What chance begins with.
    pub seed: i64,
}

/// How many rows went where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mixed {
    /// Rows in `data`.
    pub data: u64,
    /// Rows in `rest`.
    pub rest: u64,
}

/// A place in a random order.
type Lot = [u8; 16];

/// Where a row is, and what decides about it.
struct Place {
    input: usize,
    /// Its number in its input, from 0.
    number: u64,
    offset: u64,
    length: u32,
    /// The number of its id, in the order in which ids are first seen.
    id: u32,
    /// Its place in the random order in which rows are chosen.
    choice: Lot,
    /// Its place in the random order in which rows come out.
    order: Lot,
    taken: bool,
}

/// Mixes. Rows are checked to be of the kind. Where two inputs have an id in common, every id gets
/// its input's key in front, `key/id`: ids are unique in what is written.
///
/// # Errors
/// When a row does not fit, or more is asked for than there is.
pub fn mix(
    inputs: &[MixInput],
    options: &MixOptions,
    data: &mut dyn Write,
    rest: &mut dyn Write,
) -> Result<Mixed, DataError> {
    let mut places = Vec::new();
    let mut ids: BTreeMap<String, u32> = BTreeMap::new();
    let mut shared_ids = false;
    let mut files = Vec::new();
    for (input, MixInput { key, path }) in inputs.iter().enumerate() {
        let file = File::open(path)?;
        let before = places.len();
        read_places(&file, input, options, key, &mut ids, &mut places)
            .map_err(|error| in_input(inputs, key, error))?;
        let mut seen = vec![false; ids.len()];
        for place in &places[before..] {
            if std::mem::replace(&mut seen[place.id as usize], true) {
                let message = "its id has been there before".to_owned();
                let error =
                    DataError::Row { row: place.number + 1, field: Some("id".into()), message };
                return Err(in_input(inputs, key, error));
            }
        }
        shared_ids |= places[..before].iter().any(|place| seen[place.id as usize]);
        files.push(file);
    }
    take(&mut places, inputs.len(), ids.len(), options)?;
    match options.order {
        Order::Given => {}
        Order::Shuffled => places.sort_by_key(|place| place.order),
        Order::Interleaved => places.sort_by_key(|place| (place.number, place.input)),
    }
    let mut mixed = Mixed::default();
    let mut line = Vec::new();
    for place in &places {
        line.resize(place.length as usize, 0);
        files[place.input].read_exact_at(&mut line, place.offset)?;
        if shared_ids {
            line = with_prefixed_id(&line, &inputs[place.input].key)?;
        }
        line.push(b'\n');
        if place.taken {
            data.write_all(&line)?;
            mixed.data += 1;
        } else {
            rest.write_all(&line)?;
            mixed.rest += 1;
        }
    }
    Ok(mixed)
}

/// Says in which of several inputs something is wrong.
fn in_input(inputs: &[MixInput], key: &str, error: DataError) -> DataError {
    match error {
        DataError::Row { row, field, message } if inputs.len() > 1 => {
            DataError::Row { row, field, message: format!("{message} (in `{key}`)") }
        }
        other => other,
    }
}

fn read_places(
    file: &File,
    input: usize,
    options: &MixOptions,
    key: &str,
    ids: &mut BTreeMap<String, u32>,
    places: &mut Vec<Place>,
) -> Result<(), DataError> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    let (mut offset, mut number) = (0, 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(());
        }
        let row = line.trim_ascii();
        if !row.is_empty() {
            let id = options.kind.id_of(row).map_err(|message| DataError::Row {
                row: number + 1,
                field: None,
                message,
            })?;
            // The translations of a row are chosen together, so they draw one lot.
            let drawn_for = if options.by_id { "" } else { key };
            let choice = lot("okapi mix choice 1", options.seed, drawn_for, &id);
            let order = lot("okapi mix order 1", options.seed, key, &id);
            let next = ids.len() as u32;
            places.push(Place {
                input,
                number,
                offset,
                length: row.len() as u32,
                id: *ids.entry(id).or_insert(next),
                choice,
                order,
                taken: false,
            });
            number += 1;
        }
        offset += read;
    }
}

fn lot(purpose: &str, seed: i64, key: &str, id: &str) -> Lot {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&seed.to_le_bytes());
    // Lengths, so that no two pairs of texts are one.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(id.as_bytes());
    let mut lot = [0; 16];
    lot.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    lot
}

/// Marks the rows that go to `data`.
fn take(
    places: &mut [Place],
    inputs: usize,
    ids: usize,
    options: &MixOptions,
) -> Result<(), DataError> {
    if options.amount == Amount::All {
        places.iter_mut().for_each(|place| place.taken = true);
        return Ok(());
    }
    // What is chosen: rows, or ids, each standing where its first row stands.
    let mut chosen_from: Vec<usize> = Vec::new();
    let mut seen = vec![false; ids];
    for (at, place) in places.iter().enumerate() {
        if !options.by_id || !std::mem::replace(&mut seen[place.id as usize], true) {
            chosen_from.push(at);
        }
    }
    let total = chosen_from.len() as u64;
    let wanted = match options.amount {
        Amount::Count(count) => count,
        Amount::Share(share) => (share * total as f64).round() as u64,
        Amount::All => total,
    };
    if wanted > total {
        let what = if options.by_id { "ids" } else { "rows" };
        return Err(DataError::File(format!(
            "{wanted} {what} are asked for, and there are {total}"
        )));
    }
    if options.choose == Choose::Random {
        chosen_from.sort_by_key(|&at| places[at].choice);
    }
    let mut left = match options.per_input {
        true => {
            let mut sizes = vec![0; inputs];
            chosen_from.iter().for_each(|&at| sizes[places[at].input] += 1);
            equal_parts(&sizes, wanted)
        }
        false => vec![wanted],
    };
    let mut taken_ids = vec![false; ids];
    for &at in &chosen_from {
        let part = if options.per_input { places[at].input } else { 0 };
        if left[part] > 0 {
            left[part] -= 1;
            places[at].taken = true;
            taken_ids[places[at].id as usize] = true;
        }
    }
    if options.by_id {
        places.iter_mut().for_each(|place| place.taken = taken_ids[place.id as usize]);
    }
    Ok(())
}

/// Parts of `wanted`, as equal as the sizes allow; the first ones get what does not divide.
fn equal_parts(sizes: &[u64], wanted: u64) -> Vec<u64> {
    let mut parts = vec![0; sizes.len()];
    let mut smallest_first: Vec<usize> = (0..sizes.len()).collect();
    smallest_first.sort_by_key(|&input| (sizes[input], std::cmp::Reverse(input)));
    let mut left = wanted;
    for (done, &input) in smallest_first.iter().enumerate() {
        let part = (left / (sizes.len() - done) as u64).min(sizes[input]);
        parts[input] = part;
        left -= part;
    }
    parts
}

fn with_prefixed_id(line: &[u8], key: &str) -> Result<Vec<u8>, DataError> {
    // Read and written as they are, so that the order of the fields stays.
    let broken = |error: serde_json::Error| DataError::Io(error.into());
    let row: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_slice(line).map_err(broken)?;
    let id: String = row
        .get("id")
        .map_or(Ok(String::new()), |id| serde_json::from_str(id.get()))
        .map_err(broken)?;
    let old = serde_json::to_string(&id).map_err(broken)?;
    let new = serde_json::to_string(&format!("{key}/{id}")).map_err(broken)?;
    // Our own rows begin with their id.
    let text = String::from_utf8_lossy(line);
    Ok(match text.strip_prefix(&format!("{{\"id\":{old}")) {
        Some(after) => format!("{{\"id\":{new}{after}").into_bytes(),
        None => {
            let mut row = row;
            let raw = serde_json::value::RawValue::from_string(new).map_err(broken)?;
            row.insert("id".to_owned(), raw);
            serde_json::to_vec(&row).map_err(broken)?
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options() -> MixOptions {
        MixOptions {
            kind: RowKind::Prompts,
            order: Order::Given,
            amount: Amount::All,
            choose: Choose::Random,
            by_id: false,
            per_input: false,
            seed: 1,
        }
    }

    /// Mixes inputs of so many rows, ids counting from 0 in each; returns the ids of data and rest.
    fn run(sizes: &[u64], options: &MixOptions) -> Result<(Vec<String>, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let inputs: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(input, &size)| {
                let path = folder.path().join(input.to_string());
                let rows: String = (0..size)
                    .map(|id| format!("{{\"id\":\"{id}\",\"instruction\":\"{input} ä\"}}\n"))
                    .collect();
                std::fs::write(&path, rows).unwrap();
                MixInput { key: format!("i{input}"), path }
            })
            .collect();
        let (mut data, mut rest) = (Vec::new(), Vec::new());
        let mixed =
            mix(&inputs, options, &mut data, &mut rest).map_err(|error| error.to_string())?;
        let ids = |bytes: Vec<u8>| -> Vec<String> {
            let text = String::from_utf8(bytes).unwrap();
            let rows =
                text.lines().map(|line| serde_json::from_str::<crate::Prompt>(line).unwrap());
            rows.map(|row| row.id).collect()
        };
        let (data, rest) = (ids(data), ids(rest));
        assert_eq!((data.len() as u64, rest.len() as u64), (mixed.data, mixed.rest));
        Ok((data, rest))
    }

    #[test]
    fn rows_are_put_together_in_the_order_asked_for() {
        let all = |order| run(&[2, 3], &MixOptions { order, ..options() }).unwrap().0;
        assert_eq!(all(Order::Given), ["i0/0", "i0/1", "i1/0", "i1/1", "i1/2"]);
        assert_eq!(all(Order::Interleaved), ["i0/0", "i1/0", "i0/1", "i1/1", "i1/2"]);
        let shuffled = run(&[50], &MixOptions { order: Order::Shuffled, ..options() }).unwrap().0;
        let given = run(&[50], &options()).unwrap().0;
        assert_ne!(shuffled, given);
        assert_eq!(given[49], "49", "one input keeps its ids");
        let mut sorted = shuffled.clone();
        sorted.sort_by_key(|id| id.parse::<u32>().unwrap());
        assert_eq!(sorted, given);
        let other = MixOptions { order: Order::Shuffled, seed: 2, ..options() };
        assert_ne!(run(&[50], &other).unwrap().0, shuffled);
    }

    #[test]
    fn translations_stay_on_one_side() {
        let by_id = MixOptions { by_id: true, amount: Amount::Count(4), ..options() };
        let (data, rest) = run(&[10, 10, 10], &by_id).unwrap();
        assert_eq!((data.len(), rest.len()), (12, 18));
        let numbers = |ids: &[String]| -> std::collections::BTreeSet<String> {
            ids.iter().map(|id| id.split_once('/').unwrap().1.to_owned()).collect()
        };
        assert!(numbers(&data).is_disjoint(&numbers(&rest)));
    }

    #[test]
    fn each_input_gives_its_part() {
        let equal = MixOptions { per_input: true, amount: Amount::Count(11), ..options() };
        let (data, _) = run(&[2, 100, 100], &equal).unwrap();
        let from = |input: &str| data.iter().filter(|id| id.starts_with(input)).count();
        assert_eq!((from("i0/"), from("i1/"), from("i2/")), (2, 5, 4));
        let error = run(&[2], &MixOptions { amount: Amount::Count(3), ..options() }).unwrap_err();
        assert_eq!(error, "3 rows are asked for, and there are 2");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn nothing_is_lost_or_doubled_and_samples_nest(
            sizes in prop::collection::vec(0_u64..30, 1..4),
            share in 0.0..=1.0_f64,
            by_id: bool,
            per_input: bool,
            seed: i64,
        ) {
            let options = MixOptions { by_id, per_input, seed, ..options() };
            let with = |share: f64| {
                run(&sizes, &MixOptions { amount: Amount::Share(share), ..options.clone() }).unwrap()
            };
            let all = run(&sizes, &options).unwrap().0;
            let (data, rest) = with(share);
            let mut together = [data.clone(), rest].concat();
            let mut expected = all;
            together.sort();
            expected.sort();
            prop_assert_eq!(together, expected);
            let (smaller, _) = with(share / 2.0);
            if !per_input {
                prop_assert!(smaller.iter().all(|id| data.contains(id)), "a sample is not nested");
            }
            // A row's place does not depend on the others.
            let shuffled = |sizes: &[u64]| {
                let order = Order::Shuffled;
                run(sizes, &MixOptions { order, ..options.clone() }).unwrap().0
            };
            if let [size] = sizes[..] {
                let mut longer = shuffled(&[size + 1]);
                longer.retain(|id| *id != size.to_string());
                prop_assert_eq!(longer, shuffled(&[size]));
            }
        }
    }
}
