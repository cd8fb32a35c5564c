use gha_slurm_service_kit::settings::load;
use gha_slurm_test_support::Sample;
use gha_slurm_token_broker::Settings;

#[test]
fn the_sample_file_is_right() {
    let sample = Sample::filled("token-broker.toml");
    let settings: Settings = load(Some(sample.path()), []).unwrap();
    assert!(!settings.runners.original_contract);
    assert!(!settings.runners.registration_tokens);
    assert_eq!(settings.http.listen.port(), 8003);
}

#[test]
fn an_unknown_key_and_a_missing_one_are_named() {
    let sample = Sample::filled("token-broker.toml");
    let wrong = [(
        "TOKEN_BROKER__RUNNERS__ORIGINAL".to_owned(),
        "yes".to_owned(),
    )];
    let error = load::<Settings>(Some(sample.path()), wrong).unwrap_err();
    assert!(error.to_string().contains("original"), "{error}");
    let error = load::<Settings>(None, []).unwrap_err();
    assert!(error.to_string().contains("database"), "{error}");
}
