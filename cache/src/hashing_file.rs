//! A file that is hashed while it is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::digest::Digest;

/// What is gathered before it is hashed and written: enough to keep BLAKE3's widest code busy.
const BUFFER: usize = 256 << 10;

/// Digest and size of what was written through a [`HashingFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// BLAKE3 of the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// A file that is hashed while it is written, so that a large output is not read again.
#[derive(Debug)]
pub struct HashingFile {
    file: File,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    size: u64,
}

impl HashingFile {
    /// Makes `path`, which must not exist.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path) -> io::Result<HashingFile> {
        Ok(HashingFile::over(File::create_new(path)?))
    }

    /// Goes on writing behind what `path` holds, which is read and hashed first, and shown to
    /// `seen`; makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn append(path: &Path, seen: &mut dyn FnMut(&[u8])) -> io::Result<HashingFile> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut this = HashingFile::over(file);
        let mut piece = vec![0; BUFFER];
        loop {
            match io::Read::read(&mut this.file, &mut piece) {
                Ok(0) => return Ok(this),
                Ok(count) => {
                    seen(&piece[..count]);
                    this.hasher.update(&piece[..count]);
                    this.size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn over(file: File) -> HashingFile {
        HashingFile { file, hasher: blake3::Hasher::new(), buffer: Vec::new(), size: 0 }
    }

    /// How many bytes the file will hold once all is flushed.
    pub fn size(&self) -> u64 {
        self.size + self.buffer.len() as u64
    }

    /// Writes what is left, and says what the file holds now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<Written> {
        self.flush()?;
        Ok(Written {
            digest: Digest::from_bytes(*self.hasher.finalize().as_bytes()),
            size: self.size,
        })
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER && !self.buffer.is_empty() {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.hasher.update(&self.buffer);
        self.size += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_and_appended_in_pieces_hashes_as_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3 * BUFFER + 17).map(|i| (i / 3) as u8).collect();
        let (first, second) = bytes.split_at(BUFFER + 5);
        let mut file = HashingFile::create(&path).unwrap();
        for piece in first.chunks(1000) {
            file.write_all(piece).unwrap();
        }
        assert_eq!(file.size(), first.len() as u64);
        assert_eq!(file.finish().unwrap().digest, Digest::of(first));
        let mut file = HashingFile::append(&path, &mut |_| {}).unwrap();
        file.write_all(second).unwrap();
        let written = file.finish().unwrap();
        assert_eq!(written, Written { digest: Digest::of(&bytes), size: bytes.len() as u64 });
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert!(HashingFile::create(&path).is_err());
    }
}
