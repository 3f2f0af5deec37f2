//! Places artifacts in a folder.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::artifact::{Artifact, ArtifactKind};
use crate::cas::{Cas, create_file};
use crate::error::AtPath;
use crate::tree::{Tree, TreeEntry};
use crate::{Digest, StoreError};

/// For whom an artifact is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// For a reader that does not write: a reflink, else a hard link to the object itself (mode
    /// 0444), else a copy.
    Shared,
    /// For the user, or for a program that may write: a reflink, else a copy, with normal modes.
    Private,
}

/// Places an artifact at `path`, which must not exist.
pub(crate) fn place(
    cas: &Cas,
    artifact: &Artifact,
    path: &Path,
    placement: Placement,
) -> Result<(), StoreError> {
    match artifact.kind {
        ArtifactKind::File => place_file(cas, &artifact.digest, false, path, placement),
        ArtifactKind::Tree => {
            let tree = read_tree(cas, &artifact.digest)?;
            fs::create_dir(path).at(path)?;
            for entry in &tree.entries {
                let at = path.join(entry.path());
                match entry {
                    TreeEntry::Dir { .. } => fs::create_dir(&at).at(&at)?,
                    TreeEntry::Symlink { target, .. } => symlink(target, &at).at(&at)?,
                    TreeEntry::File { digest, executable, .. } => {
                        place_file(cas, digest, *executable, &at, placement)?;
                    }
                }
            }
            Ok(())
        }
    }
}

/// The manifest of that digest.
pub(crate) fn read_tree(cas: &Cas, digest: &Digest) -> Result<Tree, StoreError> {
    let path = cas.path(digest);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut cas.open_object(digest)?, &mut bytes).at(&path)?;
    Tree::parse(&bytes).map_err(|reason| StoreError::Unstorable { path, reason })
}

fn place_file(
    cas: &Cas,
    digest: &Digest,
    executable: bool,
    path: &Path,
    placement: Placement,
) -> Result<(), StoreError> {
    let object = cas.path(digest);
    // An executable needs a mode of its own, so it cannot share the object's inode.
    if placement == Placement::Shared && !executable {
        match fs::hard_link(&object, path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !object.exists() => {
                return Err(StoreError::Missing { digest: *digest, path: object });
            }
            // Another file system, or one without hard links, or too many links: a copy.
            Err(_) => {}
        }
    }
    let mut from = cas.open_object(digest)?;
    let mut to = create_file(path)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut from, &mut to).at(path)?;
    }
    set_mode(&to, executable, placement).at(path)
}

fn set_mode(file: &File, executable: bool, placement: Placement) -> io::Result<()> {
    let mode = match (placement, executable) {
        (Placement::Shared, false) => 0o444,
        (Placement::Shared, true) => 0o555,
        (Placement::Private, false) => 0o644,
        (Placement::Private, true) => 0o755,
    };
    file.set_permissions(Permissions::from_mode(mode))
}
