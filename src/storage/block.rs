//! The log's block: header, checksum, layout of a batch.
