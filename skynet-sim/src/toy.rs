//! Small hosts that prove the world before production machines enter it: they show that the NATs are what their
//! names say and that pairs can be punched as the oracle claims.

mod observer;
mod puncher;
mod script;

pub use observer::Observer;
pub use puncher::{Puncher, PuncherConfig, Rendezvous};
pub use script::{Received, Script, Sent};
