//! Pages by number, with GitHub's `Link` header.

use actix_web::HttpResponse;
use serde::Deserialize;
use serde_json::Value;

/// `?per_page=&page=`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PageQuery {
    per_page: Option<usize>,
    page: Option<usize>,
}

/// One page of a list.
pub(crate) struct Page {
    /// How many there are on all pages.
    pub(crate) total: usize,
    pub(crate) items: Vec<Value>,
    link: Option<String>,
}

impl PageQuery {
    /// At most 100 of them, 30 when not said.
    pub(crate) fn cut(&self, all: Vec<Value>, path: &str, query: &str) -> Page {
        let size = self.per_page.unwrap_or(30).clamp(1, 100);
        let page = self.page.unwrap_or(1).max(1);
        let total = all.len();
        let last = total.div_ceil(size).max(1);
        let items = all.into_iter().skip((page - 1) * size).take(size).collect();
        let to = |number: usize, relation: &str| {
            let others = query
                .split('&')
                .filter(|pair| !pair.is_empty() && !pair.starts_with("page="));
            let query: Vec<&str> = others.collect();
            let separator = if query.is_empty() { "" } else { "&" };
            format!(
                "<{path}?{}{separator}page={number}>; rel=\"{relation}\"",
                query.join("&")
            )
        };
        let mut links = Vec::new();
        if page > 1 {
            links.push(to(page - 1, "prev"));
        }
        if page < last {
            links.push(to(page + 1, "next"));
            links.push(to(last, "last"));
        }
        if page > 1 {
            links.push(to(1, "first"));
        }
        Page {
            total,
            items,
            link: (!links.is_empty()).then(|| links.join(", ")),
        }
    }
}

impl Page {
    /// The answer with this body.
    pub(crate) fn answer(link: Option<String>, body: &Value) -> HttpResponse {
        let mut answer = HttpResponse::Ok();
        if let Some(link) = link {
            answer.insert_header(("link", link));
        }
        answer.json(body)
    }

    pub(crate) fn into_parts(self) -> (usize, Vec<Value>, Option<String>) {
        (self.total, self.items, self.link)
    }
}
