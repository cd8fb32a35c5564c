use gha_slurm_repo_mapping::Settings;
use gha_slurm_service_kit::settings::load;
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
