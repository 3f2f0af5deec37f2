//! The offline teacher's world, and how languages speak of it.

mod phrase_book;
mod world;

pub use phrase_book::{BadPhraseBook, Phrase, PhraseBook, Section, Slots};
pub use world::{Fact, World};
