use std::path::Path;

use super::Settings;

fn settings(variables: &[(&str, &str)]) -> Settings {
    Settings::from_variables(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
}

#[test]
fn folders_are_those_of_huggingface_hub() {
    let check = |variables: &[(&str, &str)], cache: &str| assert_eq!(settings(variables).cache, Path::new(cache));
    check(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
    check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
    check(&[("HOME", "/h"), ("HF_HOME", "/f")], "/f/hub");
    check(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c");
}

#[test]
fn a_token_is_found_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    assert!(settings(&[("HF_HOME", home)]).token.is_none());
    storage::publish_file(&dir.path().join("token"), b"hf_of_the_file\n").unwrap();
    let of_file = settings(&[("HF_HOME", home)]);
    assert_eq!(of_file.token.as_ref().unwrap().bearer(), "Bearer hf_of_the_file");
    let both = settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_of_the_variable")]);
    assert_eq!(both.token.as_ref().unwrap().bearer(), "Bearer hf_of_the_variable");
    assert!(!format!("{both:?}").contains("hf_of"), "a token is printed");
    assert!(settings(&[("HF_TOKEN", "with\r\nHeader: x")]).token.is_none());
}

#[test]
fn offline_and_endpoint_are_read_as_python_reads_them() {
    for (value, offline) in [("1", true), ("true", true), ("ON", true), ("0", false), ("", false)] {
        assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
    assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror:8080/")]).endpoint, "http://mirror:8080");
}
