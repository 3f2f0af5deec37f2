//! What a pipeline file says: text -> tree (`yaml`) -> sections (`parse`), with the place of
//! everything, and the JSON Schema of it all (`schema`).

pub mod codes;
#[cfg(test)]
mod differential;
pub(crate) mod expect;
pub(crate) mod findings;
pub(crate) mod parse;
pub(crate) mod scalar;
pub mod schema;
pub(crate) mod yaml;
