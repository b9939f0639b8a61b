//! A snapshot part: its format, its writer and its reader.
