//! Cookies with the prefix `__Host-`, of which a browser promises that this host set them, over TLS, for all of its paths (RFC 6265bis,
//! 4.1.3.2). Read as they are sent: actix-web decodes `%5F%5FHost-`, and trims more than a browser does, which would let any host of the
//! domain set them.

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::COOKIE;

/// A cookie for this host alone, unreadable for scripts. Browsers send it when a link on another site leads here, and with nothing else
/// that another site causes.
pub(crate) fn set(name: &'static str, value: String, lifetime: Duration) -> Cookie<'static> {
    Cookie::build(name, value)
        .path("/")
        .secure(true)
        .http_only(true)
        .same_site(SameSite::Lax)
        .max_age(lifetime)
        .finish()
}

/// Makes the browser forget the cookie.
pub(crate) fn removed(name: &'static str) -> Cookie<'static> {
    let mut cookie = Cookie::build(name, "").path("/").secure(true).finish();
    cookie.make_removal();
    cookie
}

/// The value of the cookie. `None` also if the browser sends two of this name: then at least one was not set by this host.
pub(crate) fn value<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    let headers = request.headers().get_all(COOKIE);
    let pairs = headers.flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let start = pair.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
        let rest = pair.get(start..)?.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    });
    match (values.next(), values.next()) {
        (Some(only), None) => std::str::from_utf8(only).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;

    use super::*;

    fn read(cookies: &[&[u8]]) -> Option<String> {
        let mut request = TestRequest::default();
        for cookie in cookies {
            request = request.append_header((COOKIE, HeaderValue::from_bytes(cookie).unwrap()));
        }
        value(&request.to_http_request(), "__Host-a").map(str::to_owned)
    }

    #[test]
    fn only_what_this_host_has_set_is_read() {
        let found: [&[&[u8]]; 4] = [
            &[b"__Host-a=1"],
            &[b"b=2; __Host-a=1;c=3"],
            &[b"b=2", b" \t__Host-a=1"],
            // Another host's, which is no text.
            &[b"b=\xff; __Host-a=1"],
        ];
        for cookies in found {
            assert_eq!(read(cookies).as_deref(), Some("1"), "{cookies:?}");
        }
        let none: [&[&[u8]]; 7] = [
            &[],
            &[b"%5F%5FHost-a=1"],
            &["\u{2000}__Host-a=1".as_bytes()],
            &[b"__host-a=1"],
            &[b"__Host-ab=1"],
            &[b"__Host-a=1; __Host-a=2"],
            &[b"__Host-a=\xff"],
        ];
        for cookies in none {
            assert_eq!(read(cookies), None, "{cookies:?}");
        }
    }
}
