//! The pages that people see. They have no scripts, and nothing of them is unescaped.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;

/// Asks who signs in.
pub(super) fn choose(app: &str, logins: &[&str]) -> HttpResponse {
    use std::fmt::Write as _;
    let app = escaped(app);
    let mut buttons = String::new();
    for login in logins {
        let login = escaped(login);
        // Writing to a string does not fail.
        let _ = writeln!(
            buttons,
            "<p><button name=\"login\" value=\"{login}\">{login}</button></p>"
        );
    }
    if logins.is_empty() {
        buttons.push_str("<p>There are no people yet. POST /simulator/people creates one.</p>\n");
    }
    // Without an `action`, a form goes to the address of its page, with the whole query.
    let body = format!(
        "<h1>Authorize {app}</h1>\n<form method=\"post\">\n<p>Sign in as:</p>\n{buttons}\
         <p><button name=\"cancel\" value=\"true\">Cancel</button></p>\n</form>"
    );
    page(StatusCode::OK, &format!("Authorize {app}"), &body)
}

/// Says what is wrong, where the person must not be sent anywhere.
pub(super) fn refuse(status: StatusCode, title: &str, reason: &str) -> HttpResponse {
    let title = escaped(title);
    let body = format!("<h1>{title}</h1>\n<p>{}</p>", escaped(reason));
    page(status, &title, &body)
}

fn page(status: StatusCode, title: &str, body: &str) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header((
            "content-security-policy",
            "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
        ))
        .insert_header(("cache-control", "no-store"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("x-content-type-options", "nosniff"))
        .body(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
             <body>\n{body}\n</body>\n</html>\n"
        ))
}

/// Text that is safe between tags and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
