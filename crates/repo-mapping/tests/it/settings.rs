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
