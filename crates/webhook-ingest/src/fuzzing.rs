//! What the crate `fuzz` calls.

use chrono::DateTime;
use gha_slurm_contract::Event;
use gha_slurm_github::payloads::Payload;

use crate::convert;
use crate::encoding::Encoding;

/// The event that is made of the body of a delivery; `form`: the payload is in a field of a form. `None`: it is refused, or nothing acts
/// upon it.
pub fn event(name: &str, body: &[u8], form: bool) -> Option<Event> {
    let encoding = if form { Encoding::Form } else { Encoding::Json };
    let json = encoding.json(body).ok()?;
    let payload = Payload::parse(name, &json).ok()??;
    convert::event(payload, "72d3162e".to_owned(), DateTime::UNIX_EPOCH)
}
