//! Webhook deliveries: those that wait, those that are held, those that were attempted.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::{Ids, Now, World};
use crate::model::Delivery;
use crate::request::{ControlError, ReleaseOrder, WebhookEffect};

/// Where webhooks go.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) url: String,
    pub(crate) secret: secrecy::SecretString,
    pub(crate) form: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    pub(crate) hook: Option<Hook>,
    /// Every delivery by id; not attempted yet while `delivered_at` is empty.
    known: BTreeMap<i64, Delivery>,
    /// Ids in the order in which they are to be sent, not before the time.
    waiting: Vec<(i64, Now)>,
    held: Vec<i64>,
}

/// What is to be sent now.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) delivery: Delivery,
    pub(crate) hook: Hook,
}

/// How an attempt ended.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    pub(crate) status: String,
    pub(crate) status_code: u16,
    pub(crate) duration: f64,
    pub(crate) request_headers: BTreeMap<String, String>,
    pub(crate) url: String,
    pub(crate) response_headers: BTreeMap<String, String>,
    pub(crate) response_payload: String,
}

impl Deliveries {
    /// Attempted deliveries, oldest first.
    pub(crate) fn attempted(&self) -> impl DoubleEndedIterator<Item = &Delivery> {
        self.known
            .values()
            .filter(|delivery| delivery.delivered_at.is_some())
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Delivery> {
        self.known
            .get(&id)
            .filter(|delivery| delivery.delivered_at.is_some())
    }

    /// How many are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next delivery whose time has come; the earlier asked for first.
    pub(crate) fn take_due(&mut self, now: Now) -> Option<Due> {
        let hook = self.hook.clone()?;
        let at = self.waiting.iter().position(|(_, due)| *due <= now)?;
        let (id, _) = self.waiting.remove(at);
        let delivery = self.known.get(&id)?.clone();
        Some(Due { delivery, hook })
    }

    /// When the next delayed one is due.
    pub(crate) fn next_due(&self) -> Option<Now> {
        self.waiting.iter().map(|(_, due)| *due).min()
    }

    pub(crate) fn attempted_now(&mut self, id: i64, attempt: Attempt, now: Now) {
        if let Some(delivery) = self.known.get_mut(&id) {
            delivery.delivered_at = Some(now);
            delivery.status = attempt.status;
            delivery.status_code = attempt.status_code;
            delivery.duration = attempt.duration;
            delivery.request_headers = attempt.request_headers;
            delivery.url = attempt.url;
            delivery.response_headers = attempt.response_headers;
            delivery.response_payload = attempt.response_payload;
        }
    }
}

impl World {
    /// Delivers an event, as the faults asked for allow. Without a webhook address there is nothing to deliver to.
    pub(crate) fn deliver(&mut self, mut delivery: Delivery, now: Now) {
        if self.deliveries.hook.is_none() {
            return;
        }
        let effect = self.faults.take_webhook(
            &delivery.event,
            delivery.action.as_deref(),
            delivery.workflow_job_id,
        );
        if effect == Some(WebhookEffect::Drop) {
            return;
        }
        delivery.id = Ids::next(&mut self.ids.passing);
        let id = delivery.id;
        self.deliveries.known.insert(id, delivery.clone());
        match effect {
            Some(WebhookEffect::Fail) => {
                let attempt = Attempt {
                    status: "failed to connect to host".to_owned(),
                    status_code: 502,
                    ..Attempt::default()
                };
                self.deliveries.attempted_now(id, attempt, now);
            }
            Some(WebhookEffect::Hold) => self.deliveries.held.push(id),
            Some(WebhookEffect::DelayMs(milliseconds)) => {
                let delay = TimeDelta::milliseconds(milliseconds.cast_signed());
                self.deliveries.waiting.push((id, now + delay));
            }
            Some(WebhookEffect::Double) => {
                self.deliveries.waiting.push((id, now));
                self.attempt_again(delivery, false, now);
            }
            Some(WebhookEffect::Drop) | None => self.deliveries.waiting.push((id, now)),
        }
    }

    fn attempt_again(&mut self, mut delivery: Delivery, redelivery: bool, now: Now) {
        delivery.id = Ids::next(&mut self.ids.passing);
        delivery.redelivery = redelivery;
        delivery.delivered_at = None;
        self.deliveries.waiting.push((delivery.id, now));
        self.deliveries.known.insert(delivery.id, delivery);
    }

    /// Sends a delivery once more, with the same GUID.
    pub(crate) fn redeliver(&mut self, id: i64, now: Now) -> Result<(), ControlError> {
        let delivery = self
            .deliveries
            .get(id)
            .cloned()
            .ok_or_else(|| ControlError::NotFound(format!("delivery {id}")))?;
        self.attempt_again(delivery, true, now);
        Ok(())
    }

    /// Lets the held deliveries go. Gives how many.
    pub(crate) fn release_deliveries(&mut self, order: &ReleaseOrder, now: Now) -> usize {
        let mut held = std::mem::take(&mut self.deliveries.held);
        match order {
            ReleaseOrder::AsHeld => {}
            ReleaseOrder::Reversed => held.reverse(),
            ReleaseOrder::Ids(ids) => {
                held.sort_by_key(|id| {
                    ids.iter()
                        .position(|wanted| wanted == id)
                        .unwrap_or(ids.len())
                });
            }
        }
        let count = held.len();
        self.deliveries
            .waiting
            .extend(held.into_iter().map(|id| (id, now)));
        count
    }
}
