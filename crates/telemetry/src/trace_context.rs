//! W3C trace context (<https://www.w3.org/TR/trace-context/>) as one string, for HTTP headers, AMQP headers, table rows
//! and environment variables alike.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the HTTP or AMQP header.
const TRACEPARENT: &str = "traceparent";

/// The `traceparent` of the current span, if it is part of a trace.
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span` a child of the remote span that `traceparent` names. A malformed one is ignored, as the standard asks.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // Fails only for a span that has no context of its own (logs switched off): then there is nothing to connect.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn a_trace_goes_through_one_string() {
        let tracer = opentelemetry_sdk::trace::SdkTracerProvider::default().tracer("test");
        let subscriber =
            tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
        tracing::subscriber::with_default(subscriber, || {
            let remote = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let span = tracing::info_span!("here");
            set_parent(&span, remote);
            let ours = span.in_scope(current_traceparent).unwrap();
            assert_eq!(ours.get(..36), remote.get(..36), "same trace");
            assert_ne!(ours, remote, "another span");

            let alone = tracing::info_span!("alone");
            set_parent(&alone, "garbage");
            assert_ne!(
                alone.in_scope(current_traceparent).unwrap().get(..36),
                remote.get(..36)
            );
        });
    }
}
