use gha_slurm_repo_mapping::Settings;
use gha_slurm_service_kit::settings::load;

#[test]
fn the_sample_file_is_right() {
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/config/repo-mapping.toml"
    );
    let settings: Settings = load(Some(sample.as_ref()), []).unwrap();
    assert_eq!(settings.access.tokens.len(), 1);
    let none = [("REPO_MAPPING__ACCESS__TOKENS".to_owned(), String::new())];
    let error = load::<Settings>(Some(sample.as_ref()), none).unwrap_err();
    assert!(error.to_string().contains("access.tokens"), "{error}");
}
