//! Service: signed webhooks in, confirmed AMQP events out.
fn main() {}
