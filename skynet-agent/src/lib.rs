//! The skynet agent: joins a VM to the overlay and forwards its packets.
