//! What tells two operations under the same name apart.

use crate::types::request::{Expiry, Operation};
use xxhash_rust::xxh3::Xxh3;

/// xxh3-64 over what a repeated operation must agree in: everything that the client asked for.
pub(super) fn payload_hash(operation: &Operation) -> u64 {
    let mut hash = Xxh3::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match operation {
        Operation::Put { key, value, expiry, .. } => {
            field(b"put");
            field(key);
            field(value);
            match expiry {
                Expiry::Never => field(b""),
                Expiry::InMs(ms) => field(&[&b"in"[..], &ms.to_le_bytes()].concat()),
                Expiry::AtMs(ms) => field(&[&b"at"[..], &ms.to_le_bytes()].concat()),
            }
        }
        Operation::Delete { key, .. } => {
            field(b"delete");
            field(key);
        }
        Operation::Replicate { .. } | Operation::Read { .. } | Operation::Scan(_) | Operation::Join(_) => {}
    }
    hash.digest()
}
