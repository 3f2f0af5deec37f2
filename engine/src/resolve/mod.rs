//! From what a file says to what it means: profiles and overrides, variables, axes.

pub(crate) mod for_each;
pub(crate) mod profile;
pub(crate) mod vars;
