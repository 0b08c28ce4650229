//! Parse, run the verb, exit with its code.
fn main() {}
