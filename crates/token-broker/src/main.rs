//! Service: exchanges launch tokens for runner tokens and follows runners.
fn main() {}
