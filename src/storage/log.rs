//! The writer's side of one core's log.
