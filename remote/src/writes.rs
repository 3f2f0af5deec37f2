//! What is written to a remote, and deleted there.

use std::path::Path as FilePath;

use futures_util::TryFutureExt;
use object_store::path::Path;
use object_store::{
    Error as StoreSays, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result as Answer,
};
use okapi_cache::{Digest, StoreError};

use crate::error::{RemoteError, in_full};
use crate::keys::Key;
use crate::parts;
use crate::requests::{DELETE, Requests, Side, Wish};

/// How often a WebDAV server is asked to make the folders of a file: one time for each folder of a name, and the file.
const TRIES_TO_MAKE_FOLDERS: u32 = 6;

/// Whether something was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    /// It was.
    Yes,
    /// It was there already, and is as it was.
    WasThere,
    /// The remote cannot say whether something is there in the moment of writing.
    Unsupported,
}

impl Requests {
    /// Writes something small, whatever is there.
    pub(crate) async fn put(&self, key: &Key, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let key = key.to_string();
        let wish = write(&key, bytes.len() as u64, 0);
        self.send_there(wish, self.write_over(&self.path(&key), bytes.into())).await
    }

    /// Writes something small, unless it is there.
    pub(crate) async fn create(&self, key: &Key, bytes: Vec<u8>) -> Result<Created, RemoteError> {
        let key = key.to_string();
        let wish = write(&key, bytes.len() as u64, 0);
        self.send_there(wish, self.write_new(&self.path(&key), bytes.into())).await
    }

    /// Sends a file at once, unless something is there; `over` writes over it. It is read when its turn has come, and what
    /// is not `digest` is not sent. Gives what it hashes to.
    pub(crate) async fn put_whole(
        &self,
        digest: &Digest,
        file: &FilePath,
        size: u64,
        over: bool,
    ) -> Result<Digest, RemoteError> {
        let key = Key::Object(*digest).to_string();
        let path = self.path(&key);
        let request = async {
            let bytes = match std::fs::read(file) {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error)),
            };
            let found = Digest::of(&bytes);
            let payload = PutPayload::from(bytes);
            if found == *digest
                && (over || self.write_new(&path, payload.clone()).await? == Created::Unsupported)
            {
                self.write_over(&path, payload).await?;
            }
            Ok(Ok(found))
        };
        let sent = self.send_there(write(&key, size, size), request).await?;
        sent.map_err(|error| StoreError::io(file, error).into())
    }

    /// Sends a file in parts, hashing it on the way; what is not `digest` is not completed. Gives what it hashes to.
    pub(crate) async fn put_in_parts(
        &self,
        digest: &Digest,
        file: &FilePath,
        size: u64,
    ) -> Result<Digest, RemoteError> {
        let key = Key::Object(*digest).to_string();
        let path = self.path(&key);
        let request = async {
            let mut upload = self.store.put_multipart(&path).await?;
            let sent = parts::send(&mut *upload, file, size, digest).await;
            let keep = matches!(&sent, Ok(Ok(found)) if found == digest);
            if keep {
                upload.complete().await?;
            } else {
                // Best effort: what is left of it is swept by the store's own rules.
                let _ = upload.abort().await;
            }
            sent
        };
        let sent = self.send_there(write(&key, size, parts::in_memory(size)), request).await?;
        sent.map_err(|error| StoreError::io(file, error).into())
    }

    /// Removes something; that it is not there is as good.
    pub(crate) async fn delete(&self, key: &Key) -> Result<(), RemoteError> {
        let key = key.to_string();
        let path = self.path(&key);
        let wish = Wish { side: Side::Write, what: DELETE, key: &key, bytes: 0, memory: 0 };
        self.send(wish, self.store.delete(&path)).await?;
        Ok(())
    }

    async fn write_over(&self, path: &Path, payload: PutPayload) -> Answer<()> {
        for _ in 1..TRIES_TO_MAKE_FOLDERS {
            match self.store.put(path, payload.clone()).await {
                // Two that make one folder at once: the slower is told that it cannot be made, and then it is there.
                Err(error) if !self.has_parts && in_full(&error).contains("MKCOL") => {}
                other => return other.map(drop),
            }
        }
        self.store.put(path, payload).map_ok(drop).await
    }

    async fn write_new(&self, path: &Path, payload: PutPayload) -> Answer<Created> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, payload, options).await {
            Ok(_) => Ok(Created::Yes),
            // A tool between us and the store may say the one or the other.
            Err(StoreSays::AlreadyExists { .. } | StoreSays::Precondition { .. }) => {
                Ok(Created::WasThere)
            }
            Err(StoreSays::NotImplemented { .. } | StoreSays::NotSupported { .. }) => {
                Ok(Created::Unsupported)
            }
            Err(error) => Err(error),
        }
    }
}

fn write(key: &str, bytes: u64, memory: u64) -> Wish<'_> {
    Wish { side: Side::Write, what: "write", key, bytes, memory }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutResult,
    };
    use okapi_cache::{Access, Durability, Store};

    use super::*;
    use crate::address::Opened;
    use crate::limits::Limits;

    type Boxed<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'a>>;

    /// Knows how many bytes are being written at once at most.
    #[derive(Debug, Default)]
    struct Counting {
        behind: InMemory,
        now: AtomicU64,
        most: AtomicU64,
    }

    impl std::fmt::Display for Counting {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("counting")
        }
    }

    impl ObjectStore for Counting {
        fn put_opts<'a, 'b, 'c>(
            &'a self,
            location: &'b Path,
            payload: PutPayload,
            options: PutOptions,
        ) -> Boxed<'c, PutResult>
        where
            'a: 'c,
            'b: 'c,
        {
            Box::pin(async move {
                let bytes = payload.content_length() as u64;
                let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
                self.most.fetch_max(now, Ordering::Relaxed);
                // Whoever else may begin does.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                self.now.fetch_sub(bytes, Ordering::Relaxed);
                self.behind.put_opts(location, payload, options).await
            })
        }

        fn put_multipart_opts<'a, 'b, 'c>(
            &'a self,
            location: &'b Path,
            options: PutMultipartOptions,
        ) -> Boxed<'c, Box<dyn MultipartUpload>>
        where
            'a: 'c,
            'b: 'c,
        {
            self.behind.put_multipart_opts(location, options)
        }

        fn get_opts<'a, 'b, 'c>(
            &'a self,
            location: &'b Path,
            options: GetOptions,
        ) -> Boxed<'c, GetResult>
        where
            'a: 'c,
            'b: 'c,
        {
            self.behind.get_opts(location, options)
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, Answer<Path>>,
        ) -> BoxStream<'static, Answer<Path>> {
            self.behind.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Answer<ObjectMeta>> {
            self.behind.list(prefix)
        }

        fn list_with_delimiter<'a, 'b, 'c>(
            &'a self,
            prefix: Option<&'b Path>,
        ) -> Boxed<'c, ListResult>
        where
            'a: 'c,
            'b: 'c,
        {
            self.behind.list_with_delimiter(prefix)
        }

        fn copy_opts<'a, 'b, 'd, 'c>(
            &'a self,
            from: &'b Path,
            to: &'d Path,
            options: CopyOptions,
        ) -> Boxed<'c, ()>
        where
            'a: 'c,
            'b: 'c,
            'd: 'c,
        {
            self.behind.copy_opts(from, to, options)
        }
    }

    /// Sends objects of these sizes, and says how many bytes were in memory at once.
    async fn most_in_memory(sizes: Range<usize>) -> u64 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Access::ReadWrite, Durability::None).unwrap();
        let counting = Arc::new(Counting::default());
        let opened = Opened {
            store: Arc::clone(&counting) as Arc<dyn ObjectStore>,
            prefix: Path::default(),
            has_parts: false,
            without_credentials: false,
        };
        let limits = Limits { memory: 64 << 10, ..Limits::default() };
        let requests = Requests::new(opened, "counting".to_owned(), limits);
        let objects = sizes.map(|size| {
            let artifact = store.put_bytes(&vec![1; size]).unwrap();
            (artifact.digest, artifact.size)
        });
        let objects: Vec<_> = objects.collect();
        let count = objects.len() as u64;
        assert_eq!(requests.put_objects(&store, objects.clone()).await.unwrap().objects, count);
        for (digest, size) in objects {
            let there = requests.size(&Key::Object(digest)).await.unwrap();
            assert_eq!(there, Some(size));
        }
        counting.most.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_being_sent_is_bounded_in_memory() {
        let most = most_in_memory(20_000..20_016).await;
        assert!((40_000..=64 << 10).contains(&most), "{most}");
        // One that is larger than all that there may be goes alone.
        let most = most_in_memory(100_000..100_004).await;
        assert!((100_000..100_004).contains(&most), "{most}");
    }
}
