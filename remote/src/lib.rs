//! What lies elsewhere, as files here with checked hashes.
//! It never trusts a name, a size or a byte that came over the network, and gives a token to nobody but its own host.

#[cfg(feature = "hub")]
pub mod hub;
mod id;

pub use id::{HubId, Kind, Split};
