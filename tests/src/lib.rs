//! The namespace lab and the end-to-end tests of skynet.
