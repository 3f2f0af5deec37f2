//! How a remote is used.

use crate::limits::Limits;

/// How a remote is used.
#[derive(Clone, Default)]
pub struct Options {
    /// Bounds.
    pub limits: Limits,
    /// Whether nothing is ever written to it.
    pub read_only: bool,
    /// Whether answers of teachers are shared, too.
    pub records: bool,
    /// Whether only a file of the project names the address: then nothing secret goes there that is not for its host.
    pub named_by_project: bool,
    /// The environment: where credentials, endpoints and regions are read from.
    pub environment: Vec<(String, String)>,
}
