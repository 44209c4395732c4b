use super::*;

#[test]
fn the_front_matter_says_what_the_hub_asks_for_and_no_more() {
    let medgemma = HubId::model("google/medgemma-4b-it", Some("abc"));
    let card = front_matter(medgemma.as_ref(), &["PULSE-ECG/ECGInstruct".to_owned()]);
    for line in [
        "base_model: google/medgemma-4b-it",
        "base_model_relation: finetune",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "license_name: health-ai-developer-foundations",
        "- PULSE-ECG/ECGInstruct",
    ] {
        assert!(card.lines().any(|found| found == line), "{line} is not in:\n{card}");
    }
    assert!(card.starts_with("---\n") && card.ends_with("---\n\n"));
    let unknown = front_matter(None, &[]);
    for key in ["base_model", "license", "datasets"] {
        assert!(!unknown.contains(key), "{key} is in:\n{unknown}");
    }
    let other = HubId::model("somebody/gemma", None);
    assert!(!front_matter(other.as_ref(), &[]).contains("license"), "somebody else's licence is not known here");
}
