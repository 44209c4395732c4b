use super::*;

#[test]
fn a_page_is_at_most_eighty_columns_and_loses_no_word() {
    let words = "a finding that is much longer than one line of a terminal and therefore has to be wrapped somewhere";
    let path = format!("/{}", "a-folder-with-a-long-name/".repeat(4));
    let found = [
        ("config", vec![Finding::ok(words), Finding::warning(words, words).at("data.train")]),
        ("model", vec![Finding::ok(format!("{path} is here"))]),
        ("empty", vec![]),
    ];
    let page = text(&found);
    for line in page.lines().filter(|line| !line.contains(path.trim())) {
        assert!(line.chars().count() <= WIDTH, "{line}");
    }
    let said: Vec<&str> = page.split_whitespace().collect();
    assert_eq!(said.iter().filter(|&&word| word == "therefore").count(), 3, "{page}");
    assert!(page.starts_with("config      ok      a finding"), "{page}");
    assert!(page.contains("            warning data.train: a finding") && page.contains("-> a finding"), "{page}");
    assert!(!page.contains("empty"), "a section that found nothing is not shown: {page}");
}

#[test]
fn json_names_every_part_of_a_finding() {
    let found = [("config", vec![Finding::warning("what", "next").at("where")]), ("model", vec![])];
    let read: Value = serde_json::from_str(&json(&found)).unwrap();
    assert_eq!(read["ok"], true);
    let finding = &read["sections"][0]["findings"][0];
    for key in ["what", "where", "next"] {
        assert_eq!(finding[key], key);
    }
    assert_eq!((&finding["level"], &read["sections"][1]["findings"]), (&json!("warning"), &json!([])));
}
