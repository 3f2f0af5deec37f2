//! The built-in stages beyond the engine's own `command`: adapters from ports and params to
//! library calls. [`registry`] is the list.

mod download;
mod import;
mod mix;

use okapi_engine::stage::StageRegistry;

/// Every stage that okapi has.
pub fn registry() -> StageRegistry {
    let mut registry = StageRegistry::with_builtin();
    registry.add(Box::new(import::Import));
    registry.add(Box::new(mix::Mix));
    registry
}
