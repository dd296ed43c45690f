//! iperf3 matrix in namespaces against other overlays.
fn main() {}
