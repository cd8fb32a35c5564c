//! An OpenTelemetry collector: keeps the spans that services send (OTLP over HTTP, protobuf).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpResponse, HttpServer, web};
use gha_slurm_test_support::wait_until;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;

use crate::stack::DEADLINE;

/// One span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// `service.name` of its process.
    pub(crate) service: String,
    pub(crate) name: String,
    /// Text attributes.
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) trace: String,
    id: String,
    parent: String,
}

impl Span {
    /// `service name`, with the route of a request.
    pub(crate) fn label(&self) -> String {
        let route = self.attributes.get("http.route").map(String::as_str);
        [&self.service, &self.name, route.unwrap_or_default()]
            .join(" ")
            .trim_end()
            .to_owned()
    }
}

/// Listens until dropped.
pub(crate) struct Collector {
    pub(crate) url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    server: actix_web::dev::ServerHandle,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let data = web::Data::from(Arc::clone(&spans));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::PayloadConfig::new(16 << 20))
                .app_data(data.clone())
                .route("/v1/traces", web::post().to(receive))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            url,
            spans,
            server: handle,
        }
    }

    /// Waits until a span with this label has come, and answers it and those above it, up to the root of its trace.
    pub(crate) async fn until_lineage(&self, label: &str, root: &str) -> Vec<Span> {
        wait_until(
            &format!("a span `{label}` below `{root}`"),
            DEADLINE,
            || async {
                let spans = self.spans.lock().unwrap().clone();
                let by_id: BTreeMap<&str, &Span> =
                    spans.iter().map(|s| (s.id.as_str(), s)).collect();
                let lineages: Vec<Vec<Span>> = spans
                    .iter()
                    .filter(|span| span.label() == label)
                    .map(|span| {
                        let above = |span: &&Span| by_id.get(span.parent.as_str()).copied();
                        std::iter::successors(Some(span), above).cloned().collect()
                    })
                    .collect();
                let labels =
                    |lineage: &Vec<Span>| lineage.iter().map(Span::label).collect::<Vec<_>>();
                let seen: Vec<Vec<String>> = lineages.iter().map(labels).collect();
                let complete = |lineage: &Vec<Span>| {
                    lineage
                        .last()
                        .is_some_and(|s| s.label() == root && s.parent.is_empty())
                };
                lineages.into_iter().find(complete).ok_or(seen)
            },
        )
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Told, not waited for.
        drop(self.server.stop(false));
    }
}

async fn receive(body: web::Bytes, spans: web::Data<Mutex<Vec<Span>>>) -> HttpResponse {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut kept = spans.lock().unwrap();
    for resource in request.resource_spans {
        let resource_attributes =
            texts(resource.resource.map(|r| r.attributes).unwrap_or_default());
        let service = resource_attributes
            .get("service.name")
            .cloned()
            .unwrap_or_default();
        for span in resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            kept.push(Span {
                service: service.clone(),
                name: span.name,
                attributes: texts(span.attributes),
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
            });
        }
    }
    HttpResponse::Ok().finish()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes
        .into_iter()
        .filter_map(|attribute| match attribute.value?.value? {
            Value::StringValue(text) => Some((attribute.key, text)),
            _ => None,
        })
        .collect()
}
