//! What lies elsewhere, as files here with checked hashes or as ranges of bytes.
//! It never trusts a name, a size or a byte that came over the network, and gives a secret to nobody but its own host.

mod address;
#[cfg(feature = "hub")]
pub mod hub;
mod id;
#[cfg(feature = "object-store")]
pub mod objects;
#[cfg(any(feature = "hub", feature = "object-store"))]
mod tls;

pub use address::is_address;
pub use id::{HubId, Kind, Split};
