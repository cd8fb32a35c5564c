//! `/login/oauth/authorize`.

use reqwest::{Response, StatusCode};

use serde_json::json;

use super::{CALLBACK, CHALLENGE, FORM, encoded, parameter, start};
use crate::{Sim, settings};

fn location(answer: &Response) -> &str {
    answer.headers()["location"].to_str().unwrap()
}

impl Sim {
    async fn open(&self, url: &str) -> Response {
        self.http.get(url).send().await.unwrap()
    }

    /// Presses a button of the page.
    async fn press(&self, url: &str, button: (&str, &str)) -> Response {
        let request = self.http.post(url).header("content-type", FORM);
        let body = encoded(&json!({ button.0: button.1 }));
        request.body(body).send().await.unwrap()
    }
}

#[tokio::test]
async fn a_person_signs_in_or_does_not() {
    let sim = start(&["ada", "grace", "linus"]);
    let url = sim.authorize_url(&[("redirect_uri", CALLBACK), ("login", "Grace")]);
    let page = sim.open(&url).await;
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text().await.unwrap();
    let at = |login: &str| {
        let button = format!("<button name=\"login\" value=\"{login}\">{login}</button>");
        text.find(&button).unwrap()
    };
    assert!(at("grace") < at("ada") && at("ada") < at("linus"), "{text}");
    assert!(text.contains("Cancel</button>"), "{text}");
    assert!(!text.contains("<script"), "{text}");

    let answer = sim.press(&url, ("login", "grace")).await;
    assert_eq!(answer.status(), 302);
    let back = location(&answer);
    assert!(back.starts_with(&format!("{CALLBACK}?code=")), "{back}");
    assert_eq!(parameter(back, "state").as_deref(), Some("s t&te"));
    assert!(parameter(back, "error").is_none());
    let people = sim.handle.state().people;
    let authorized = people.iter().filter(|person| person.authorized);
    let authorized: Vec<&str> = authorized.map(|person| person.login.as_str()).collect();
    assert_eq!(authorized, ["grace"]);

    let answer = sim.press(&url, ("cancel", "true")).await;
    assert_eq!(answer.status(), 302);
    let back = location(&answer);
    assert_eq!(parameter(back, "error").as_deref(), Some("access_denied"));
    assert_eq!(
        parameter(back, "error_description").as_deref(),
        Some("The user has denied your application access.")
    );
    assert_eq!(parameter(back, "state").as_deref(), Some("s t&te"));
    assert!(parameter(back, "code").is_none());
    assert_eq!(sim.handle.cancel_authorization(&url).unwrap(), back);
}

#[tokio::test]
async fn nobody_is_sent_to_a_foreign_address() {
    let sim = start(&["ada"]);
    for foreign in [
        "https://evil.example/callback",
        "http://127.0.0.1:8001/auth/github/callback/",
        "http://127.0.0.1:8001/auth/github/callback?next=1",
        "http://127.0.0.1:8002/auth/github/callback",
        "",
    ] {
        let url = sim.authorize_url(&[("redirect_uri", foreign)]);
        for answer in [
            sim.open(&url).await,
            sim.press(&url, ("login", "ada")).await,
        ] {
            assert_eq!(answer.status(), 400, "{foreign}");
            assert!(answer.headers().get("location").is_none(), "{foreign}");
            let text = answer.text().await.unwrap();
            assert!(text.contains("redirect_uri_mismatch"), "{text}");
            assert!(!text.contains("evil"), "{text}");
        }
        assert!(sim.handle.authorize("ada", &url).is_err());
    }
    let url = sim.authorize_url(&[]).replace("Iv23li", "Iv23lx");
    for answer in [
        sim.open(&url).await,
        sim.press(&url, ("login", "ada")).await,
    ] {
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    assert!(sim.handle.authorize("ada", &url).is_err());
    // Who does not exist cannot be chosen, an organization neither.
    let url = sim.authorize_url(&[]);
    for login in ["mallory", "acme"] {
        assert_eq!(sim.press(&url, ("login", login)).await.status(), 404);
        assert!(sim.handle.authorize(login, &url).is_err());
    }
    let url = sim.authorize_url(&[]);
    for wrong in [
        url.replace("authorize", "authorise"),
        url.replace("/login/", "/api/v3/login/"),
        "callback".to_owned(),
    ] {
        assert!(sim.handle.authorize("ada", &wrong).is_err(), "{wrong}");
    }
    assert!(sim.handle.state().people.iter().all(|one| !one.authorized));
}

#[tokio::test]
async fn the_first_callback_url_is_the_default_and_none_is_set_at_first() {
    let sim = Sim::start_with(settings());
    sim.handle.create_person("ada").unwrap();
    let url = sim.authorize_url(&[]);
    assert_eq!(sim.open(&url).await.status(), 400);
    let urls = ["http://b.example/x?kept=1", "http://a.example/"].map(str::to_owned);
    sim.handle.set_callback_urls(urls.to_vec()).unwrap();
    let answer = sim.press(&url, ("login", "ada")).await;
    let back = location(&answer);
    assert!(
        back.starts_with("http://b.example/x?kept=1&code="),
        "{back}"
    );
    for wrong in ["javascript:alert(1)", "callback", ""] {
        let refused = sim.handle.set_callback_urls(vec![wrong.to_owned()]);
        assert!(refused.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn only_s256_challenges_are_accepted() {
    let sim = start(&["ada"]);
    let long = format!("{CHALLENGE}=");
    for pairs in [
        &[("code_challenge", CHALLENGE)][..],
        &[
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "plain"),
        ],
        &[
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "s256"),
        ],
        &[
            ("code_challenge", "short"),
            ("code_challenge_method", "S256"),
        ],
        &[("code_challenge", &long), ("code_challenge_method", "S256")],
        &[("code_challenge_method", "S256")],
    ] {
        let url = sim.authorize_url(pairs);
        let answer = sim.open(&url).await;
        assert_eq!(answer.status(), 302, "{pairs:?}");
        let back = location(&answer);
        assert_eq!(parameter(back, "error").as_deref(), Some("invalid_request"));
        assert_eq!(parameter(back, "state").as_deref(), Some("s t&te"));
        assert_eq!(sim.handle.authorize("ada", &url).unwrap(), back);
    }
}

#[tokio::test]
async fn what_people_are_called_is_only_text() {
    let hostile = "\"><img src=x onerror='alert(1)'>&amp;";
    let sim = start(&[hostile]);
    let url = sim.authorize_url(&[("redirect_uri", CALLBACK), ("login", hostile)]);
    let text = sim.open(&url).await.text().await.unwrap();
    assert!(!text.contains("<img") && !text.contains("'alert"), "{text}");
    let safe = "&quot;&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;amp;";
    assert!(
        text.contains(&format!("value=\"{safe}\">{safe}</button>")),
        "{text}"
    );
    let answer = sim.press(&url, ("login", hostile)).await;
    assert_eq!(answer.status(), 302);
    let nobody = "<b>mallory</b>";
    let answer = sim.press(&url, ("login", nobody)).await;
    assert_eq!(answer.status(), 404);
    assert!(!answer.text().await.unwrap().contains(nobody));
}
