//! Stories in virtual time.
