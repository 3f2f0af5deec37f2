//! Teachers: where text comes from.
//!
//! So far the foundation of the offline teacher: a small closed world ([`offline::World`]) and the
//! words for it, language by language ([`offline::PhraseBook`]).

pub mod offline;
