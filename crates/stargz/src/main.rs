//! stargz
fn main() {}
