//! One stateful model of GitHub and of a runner, for tests and the local stack.
fn main() {}
