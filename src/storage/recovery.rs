//! What a log means after a crash.
