//! A world in one thread: production state machines over simulated links, NATs and time.
