//! Generates schemas and OpenAPI; checks the room table; runs the demo and the benchmarks.
fn main() {}
