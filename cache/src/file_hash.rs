//! Hashing files: with all processors, and without mapping them.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB, so an aligned run of 2^k chunks is a subtree that
//! anybody can hash alone (BLAKE3 paper, sections 2.1 and 5.3). Each thread takes the next such run,
//! reads it piece by piece into a buffer that stays in its own second-level cache, and hashes it
//! there; the chaining values are merged at the end. A mapping would save the copy into the buffer,
//! but a file that shrinks under a mapping kills the process, and users' files do shrink.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::digest::Digest;
use crate::error::{AtPath, StoreError};

/// What a thread takes at once: a power of two, and much more than [`PIECE`].
const SUBTREE: u64 = 4 << 20;

/// What is read and hashed at once: small enough to stay in a core's own cache.
const PIECE: usize = 256 << 10;

/// Digest and size of an open file's bytes.
///
/// # Errors
/// A read fails, or the file becomes shorter while it is read.
pub(crate) fn hash_open_file(file: &File, path: &Path) -> Result<(Digest, u64), StoreError> {
    let size = file.metadata().at(path)?.len();
    if size <= SUBTREE {
        return hash_whole(file, size).at(path);
    }
    let values = hash_subtrees(file, size).at(path)?;
    Ok((Digest::from_bytes(*root(&values, size).as_bytes()), size))
}

/// A small file, by the calling thread. A file that grows meanwhile is read to its end.
fn hash_whole(mut file: &File, size: u64) -> io::Result<(Digest, u64)> {
    let mut bytes = Vec::with_capacity(size as usize + 1);
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok((Digest::of(&bytes), bytes.len() as u64))
}

/// The chaining value of each subtree of `SUBTREE` bytes, in order.
fn hash_subtrees(file: &File, size: u64) -> io::Result<Vec<ChainingValue>> {
    let count = size.div_ceil(SUBTREE);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> io::Result<Vec<(u64, ChainingValue)>> {
        let mut buffer = vec![0; PIECE];
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let from = index * SUBTREE;
            let until = size.min(from + SUBTREE);
            match hash_subtree(file, from, until, &mut buffer) {
                Ok(value) => done.push((index, value)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let helpers = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..helpers).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for helper in helpers {
            let part = helper
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a hashing thread panicked")));
            all = all.and_then(|mut all| {
                all.extend(part?);
                Ok(all)
            });
        }
        all
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}

fn hash_subtree(
    file: &File,
    from: u64,
    until: u64,
    buffer: &mut [u8],
) -> io::Result<ChainingValue> {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(from);
    let mut at = from;
    while at < until {
        let wanted = buffer.len().min((until - at) as usize);
        file.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    Ok(hasher.finalize_non_root())
}

/// Merges the subtrees of a file of `size` bytes, more than one of them.
fn root(values: &[ChainingValue], size: u64) -> blake3::Hash {
    let left = blake3::hazmat::left_subtree_len(size);
    let (first, second) = values.split_at((left / SUBTREE) as usize);
    merge_subtrees_root(&merge(first, left), &merge(second, size - left), Mode::Hash)
}

fn merge(values: &[ChainingValue], size: u64) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let left = blake3::hazmat::left_subtree_len(size);
    let (first, second) = values.split_at((left / SUBTREE) as usize);
    merge_subtrees_non_root(&merge(first, left), &merge(second, size - left), Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_sizes_around_the_borders_hash_as_their_bytes_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let subtree = SUBTREE as usize;
        let piece = PIECE;
        let sizes = [
            0,
            1,
            piece,
            subtree - 1,
            subtree,
            subtree + 1,
            subtree + piece + 1,
            2 * subtree,
            2 * subtree + 1023,
            3 * subtree,
            5 * subtree + 77,
        ];
        let bytes: Vec<u8> = (0..5 * subtree + 77).map(|i| (i * i / 251 + i) as u8).collect();
        for size in sizes {
            std::fs::write(&path, &bytes[..size]).unwrap();
            let file = File::open(&path).unwrap();
            let (digest, found) = hash_open_file(&file, &path).unwrap();
            assert_eq!((digest, found), (Digest::of(&bytes[..size]), size as u64), "{size}");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 3 * SUBTREE as usize]).unwrap();
        let file = File::open(&path).unwrap();
        let longer = 4 * SUBTREE;
        assert_eq!(hash_subtrees(&file, longer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof,);
    }
}
