//! The words that everything else is said in: keys, versions, records, time, limits, errors. Knows nothing of disks,
//! networks or other nodes.

pub mod clock;
pub mod error;
pub mod ids;
pub mod join;
pub mod limits;
pub mod mutant;
pub mod prng;
pub mod record;
pub mod request;
pub mod token;
pub mod version;

pub use clock::{Mono, Now};
pub use error::{Failure, Outcome, Reason};
pub use ids::{ClusterId, CoreId, MemberId, OperationId};
pub use limits::Limits;
pub use record::{Body, RecordRef};
pub use token::{SLOTS, Slot, Token};
pub use version::{Hlc, Version};
