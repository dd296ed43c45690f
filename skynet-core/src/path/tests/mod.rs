//! Stories in virtual time: two agents, a relay pipe, two routers.

mod choice;
mod guess;
mod hostile;
mod liveness;
mod net;
mod punching;
