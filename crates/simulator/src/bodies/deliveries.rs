//! Deliveries of the App's webhook.

use serde_json::{Map, Value, json};

use super::{maybe_time, put};
use crate::model::Delivery;

/// A delivery as the list has it.
pub(crate) fn delivery_item(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": maybe_time(delivery.delivered_at),
        "redelivery": delivery.redelivery,
        "duration": delivery.duration,
        "status": delivery.status,
        "status_code": delivery.status_code,
        "event": delivery.event,
        "action": delivery.action,
        "installation_id": delivery.installation_id,
        "repository_id": delivery.repository_id,
        "throttled_at": null,
    })
}

/// A delivery with what was sent and answered.
pub(crate) fn delivery(delivery: &Delivery) -> Value {
    let mut body = delivery_item(delivery);
    let payload: Value = serde_json::from_str(&delivery.payload).unwrap_or(Value::Null);
    let answered: Map<String, Value> = delivery
        .response_headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    put(
        &mut body,
        json!({
            "url": delivery.url,
            "request": { "headers": delivery.request_headers, "payload": payload },
            "response": { "headers": answered, "payload": delivery.response_payload },
        }),
    );
    body
}
