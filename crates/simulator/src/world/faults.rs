//! Faults asked for: each is used up by what it hits, in the order they were asked for.

use crate::request::{RestEffect, RestFault, WebhookEffect, WebhookFault};

#[derive(Debug, Default)]
pub(crate) struct Faults {
    rest: Vec<RestFault>,
    webhooks: Vec<WebhookFault>,
}

impl Faults {
    pub(crate) fn add_rest(&mut self, fault: RestFault) {
        self.rest.push(fault);
    }

    pub(crate) fn add_webhook(&mut self, fault: WebhookFault) {
        self.webhooks.push(fault);
    }

    pub(crate) fn clear_rest(&mut self) {
        self.rest.clear();
    }

    pub(crate) fn clear_webhooks(&mut self) {
        self.webhooks.clear();
    }

    /// The fault for a call of this route, used up by one.
    pub(crate) fn take_rest(&mut self, route: &str) -> Option<RestEffect> {
        let at = self
            .rest
            .iter()
            .position(|fault| fault.route.as_deref().is_none_or(|wanted| wanted == route))?;
        let fault = self.rest.get_mut(at)?;
        let effect = fault.effect.clone();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            self.rest.remove(at);
        }
        Some(effect)
    }

    /// The fault for a delivery, used up by one.
    pub(crate) fn take_webhook(
        &mut self,
        event: &str,
        action: Option<&str>,
        workflow_job_id: Option<i64>,
    ) -> Option<WebhookEffect> {
        let at = self.webhooks.iter().position(|fault| {
            fault.event.as_deref().is_none_or(|wanted| wanted == event)
                && (fault.action.is_none() || fault.action.as_deref() == action)
                && (fault.workflow_job_id.is_none() || fault.workflow_job_id == workflow_job_id)
        })?;
        let fault = self.webhooks.get_mut(at)?;
        let effect = fault.effect.clone();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            self.webhooks.remove(at);
        }
        Some(effect)
    }
}
