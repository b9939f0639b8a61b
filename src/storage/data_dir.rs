//! The data directory: identity, layouts, names of files.
