//! Answers of teachers, shared by stores.

use std::fs;

use okapi_cache::{Digest, Store};
use okapi_remote::{Options, RecordsMoved, Remote};

use crate::folder::files;
use crate::support::{remote, store};

fn add(store: &Store, numbers: std::ops::Range<u32>) {
    let record = |number: u32| format!("the answer to {number}, and what was asked").into_bytes();
    let records: Vec<_> = numbers.map(|it| (Digest::of(&it.to_le_bytes()), record(it))).collect();
    store.records().add(&records).unwrap();
}

fn fetched(remote: &Remote, store: &Store) -> u64 {
    remote.fetch_records(store).unwrap().records
}

fn sent(remote: &Remote, store: &Store) -> u64 {
    remote.send_records(store).unwrap().records
}

#[test]
fn what_one_has_asked_others_need_not_and_nothing_goes_to_and_fro() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    add(&one, 0..100);
    // The one has asked for half of that itself.
    add(&two, 50..120);
    assert_eq!((sent(&remote, &one), sent(&remote, &one)), (100, 0));
    assert_eq!((fetched(&remote, &two), fetched(&remote, &two)), (50, 0));
    assert_eq!(two.records().len().unwrap(), 120);
    let answer = two.records().lookup(&Digest::of(&7_u32.to_le_bytes())).unwrap().unwrap();
    assert_eq!(answer, b"the answer to 7, and what was asked");
    // What it had of its own goes there, what came from there does not.
    assert_eq!((sent(&remote, &two), sent(&remote, &two)), (70, 0));
    assert_eq!((fetched(&remote, &one), sent(&remote, &one)), (20, 0));
    add(&one, 200..210);
    assert_eq!((sent(&remote, &one), fetched(&remote, &two)), (10, 10));
    assert_eq!((one.records().len().unwrap(), two.records().len().unwrap()), (130, 130));
    assert_eq!(files(folder.path()).len(), 3);
}

#[test]
fn a_pack_that_is_damaged_or_lost_costs_a_transfer() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    add(&one, 0..10);
    sent(&remote, &one);
    add(&one, 10..20);
    sent(&remote, &one);
    let packs = files(folder.path());
    let whole = fs::read(&packs[0]).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    for bytes in [&damaged[..], &whole[..whole.len() - 3], b""] {
        fs::write(&packs[0], bytes).unwrap();
        let two = store(folder.path(), &format!("two-{}", bytes.len()));
        assert_eq!(fetched(&remote, &two), 10);
        let notices = remote.take_notices().join("\n");
        assert!(notices.contains("okapi/v1/record/"), "{notices}");
        // It is looked at again, and used when it is in order.
        assert_eq!(fetched(&remote, &two), 0);
        remote.take_notices();
        fs::write(&packs[0], &whole).unwrap();
        assert_eq!(fetched(&remote, &two), 10);
    }
    // A repair takes it away, and whoever has the records sends them again.
    fs::write(&packs[0], &damaged).unwrap();
    let report = remote.verify(&two, None, Some(&|_| None), &|_| {}).unwrap();
    assert_eq!((report.good_packs, report.wrong.len()), (1, 1));
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!((sent(&remote, &one), sent(&remote, &one)), (10, 0));
    assert_eq!(fetched(&remote, &two), 20);
    // A store that has lost its own begins anew.
    let again = store(folder.path(), "again");
    let known = |name: &str| folder.path().join(name).join("runs/records");
    fs::create_dir_all(known("again")).unwrap();
    for entry in fs::read_dir(known("two")).unwrap().flatten() {
        fs::copy(entry.path(), known("again").join(entry.file_name())).unwrap();
    }
    assert_eq!(fetched(&remote, &again), 20);
}

#[test]
fn many_records_go_in_several_packs() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    for part in 0..20_u32 {
        let record = |number: u32| (Digest::of(&number.to_le_bytes()), vec![part as u8; 10_000]);
        let records: Vec<_> = (part * 50..part * 50 + 50).map(record).collect();
        one.records().add(&records).unwrap();
    }
    let moved = remote.send_records(&one).unwrap();
    assert_eq!(moved.records, 1000);
    assert!(files(folder.path()).len() >= 2);
    assert_eq!(remote.fetch_records(&two).unwrap(), moved);
    assert_eq!(remote.send_records(&two).unwrap(), RecordsMoved::default());
}

/// One pack around another was once taken for both.
#[test]
fn a_pack_that_is_lost_between_others_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    add(&two, 100..110);
    sent(&remote, &two);
    let theirs = files(folder.path());
    add(&one, 0..10);
    assert_eq!(fetched(&remote, &one), 10);
    add(&one, 10..20);
    assert_eq!(sent(&remote, &one), 20);
    fs::remove_file(&theirs[0]).unwrap();
    assert_eq!((sent(&remote, &one), sent(&remote, &one)), (10, 0));
    assert_eq!(fetched(&remote, &store(folder.path(), "three")), 30);
}
