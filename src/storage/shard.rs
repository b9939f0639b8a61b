//! One core's data: table, digests, floors, operation identities.
