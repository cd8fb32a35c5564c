use gha_slurm_repo_mapping::Settings;
use gha_slurm_service_kit::settings::{load, load_checked};
use gha_slurm_test_support::Sample;

#[test]
fn the_sample_file_is_right() {
    let sample = Sample::filled("repo-mapping.toml");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert_eq!(settings.access.tokens.len(), 1);
    let sample = sample.with(|text| text.replace("tokens_file = ", "tokens = \"\" # "));
    let error = load::<Settings>(Some(sample.path()), []).unwrap_err();
    assert!(error.to_string().contains("access.tokens"), "{error}");
}

#[test]
fn the_apps_key_is_refused_and_its_new_place_named() {
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/repo-mapping.toml"
    );
    for (key, value) in [
        ("APP_ID", "7"),
        ("PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----"),
        ("PRIVATE_KEY_FILE", "/run/secrets/github-private-key"),
        ("API_URL", "https://api.github.com"),
        ("CA_FILE", "/etc/gha-slurm/ca.pem"),
    ] {
        let old = [(format!("REPO_MAPPING__GITHUB__{key}"), value.to_owned())];
        let error = load::<Settings>(Some(sample.as_ref()), old).unwrap_err();
        let error = error.to_string();
        let named = format!("github.{}", key.to_lowercase());
        assert!(error.contains(&named), "{error}");
        assert!(error.contains("remove this setting"), "{error}");
        assert!(error.contains("token_broker.service_token"), "{error}");
        assert!(!error.contains(value), "{error}");
    }
}

#[test]
fn a_sign_in_is_with_one_github_at_a_page_that_browsers_trust() {
    let sample = Sample::filled("repo-mapping.toml");
    let sign_in = |more: &[(&str, &str)]| {
        let settings = [
            ("SIGN_IN__PUBLIC_URL", "https://ci.example.org"),
            ("SIGN_IN__CLIENT_ID", "Iv23liAbCdEfGhIjKlMn"),
            (
                "SIGN_IN__CLIENT_SECRET",
                "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
            ),
        ];
        let settings = settings.iter().chain(more);
        let settings =
            settings.map(|(key, value)| (format!("REPO_MAPPING__{key}"), (*value).to_owned()));
        let loaded = load_checked::<Settings>(Some(sample.path()), settings);
        loaded
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let fine = sign_in(&[]);
    assert!(!fine.contains("sign_in"), "{fine}");
    let enterprise = ("GITHUB__WEB_URL", "https://ghe.example.org");
    let fine = sign_in(&[
        enterprise,
        ("SIGN_IN__API_URL", "https://ghe.example.org/api/v3"),
    ]);
    assert!(!fine.contains("sign_in"), "{fine}");
    for (more, named) in [
        (vec![enterprise], "sign_in.api_url"),
        (
            vec![("SIGN_IN__API_URL", "https://ghe.example.org/api/v3")],
            "sign_in.api_url",
        ),
        (
            vec![("SIGN_IN__PUBLIC_URL", "https://example.org/ci")],
            "sign_in.public_url",
        ),
        (
            vec![
                ("SIGN_IN__PUBLIC_URL", "http://ci.example.org"),
                ("INSECURE", "true"),
            ],
            "sign_in.public_url",
        ),
        (vec![("SIGN_IN__CLIENT_ID", " ")], "sign_in.client_id"),
        (
            vec![("SIGN_IN__CLIENT_SECRET", "change-me")],
            "sign_in.client_secret",
        ),
        (
            vec![("ACCESS__ADMINISTRATORS", "octocat")],
            "access.administrators",
        ),
    ] {
        let told = sign_in(&more);
        assert!(told.contains(named), "{more:?}: {told}");
    }
}
