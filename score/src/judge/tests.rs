use super::*;

const GOOD: &str = r#"{"Diagnosis": {"Score": 8, "Explanation": "x"}, "waveform": 6, "RHYTHM": {"score": "10"}}"#;

fn batch(content: &str) -> String {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": content}}]});
    json!({"id": "b", "custom_id": "r1", "response": {"status_code": 200, "body": body}, "error": null}).to_string()
}

fn report(line: &str) -> Result<Reply, ReplyError> {
    parse_reply(Task::PtbTestReport, line)
}

#[test]
fn a_reply_is_read_from_a_batch_or_plain() {
    let expected = Reply { id: "r1".into(), scores: vec![8.0, 6.0, 10.0] };
    assert_eq!(report(&batch(GOOD)), Ok(expected.clone()));
    assert_eq!(report(&batch(&format!("Here it is:\n```json\n{GOOD}\n```"))), Ok(expected.clone()));
    assert_eq!(report(&json!({"custom_id": "r1", "content": GOOD}).to_string()), Ok(expected));
}

#[test]
fn a_reply_that_does_not_count_says_why_and_never_what() {
    let id = || "r1".to_owned();
    assert_eq!(report("secret"), Err(ReplyError::NotJson));
    assert_eq!(report("{}"), Err(ReplyError::NoId));
    assert_eq!(report(r#"{"custom_id":"r1","error":{"message":"secret"}}"#), Err(ReplyError::Refused(id())));
    assert_eq!(report(r#"{"custom_id":"r1"}"#), Err(ReplyError::NoContent(id())));
    assert_eq!(report(&batch("secret")), Err(ReplyError::NoObject(id())));
    for bad in [r#"{"Diagnosis": 8, "Waveform": 6}"#, r#"{"Diagnosis": 8, "Waveform": 6, "Rhythm": 11}"#] {
        let error = report(&batch(bad)).unwrap_err();
        assert_eq!(error, ReplyError::NoScore { id: id(), criterion: "Rhythm" });
        assert!(!error.to_string().contains("11"));
    }
}

#[test]
fn a_report_is_the_mean_of_its_criteria_times_ten() {
    let replies = [vec![8.0, 6.0, 10.0], vec![0.0, 0.0, 0.0]].map(|scores| Reply { id: String::new(), scores });
    let scores = score_replies(Task::PtbTestReport, &replies, Bootstrap { resamples: 10, seed: 0 }).unwrap();
    let values: Vec<_> = scores.metrics.iter().map(|m| (m.name.as_str(), m.value.unwrap())).collect();
    assert_eq!(values, [("score", 40.0), ("diagnosis", 4.0), ("waveform", 3.0), ("rhythm", 5.0)]);
    let arena = score_replies(Task::Arena, &replies, Bootstrap { resamples: 10, seed: 0 }).unwrap();
    assert_eq!(arena.metrics[3].name, "instruction_adherence");
}

#[test]
fn a_request_asks_for_every_criterion_as_json() {
    let row = Answered { question: "Q?", answer: "said", gold: "true" };
    for (task, criteria) in [
        (Task::PtbTestReport, ["Diagnosis", "Waveform", "Rhythm"]),
        (Task::Arena, ["Accuracy", "Completeness", "Instruction Adherence"]),
    ] {
        let request = request(task, "r1", &row, "gpt-4o").unwrap();
        let body = &request["body"];
        assert_eq!((&body["temperature"], &body["model"]), (&json!(0), &json!("gpt-4o")));
        assert_eq!(body["response_format"]["type"], "json_object");
        let system = body["messages"][0]["content"].as_str().unwrap();
        assert!(criteria.iter().all(|criterion| system.contains(&format!("\"{criterion}\""))), "{system}");
        let user = body["messages"][1]["content"].as_str().unwrap();
        assert!(["Q?", "said", "true"].iter().all(|part| user.contains(part)));
    }
    assert!(request(Task::PtbTest, "r1", &row, "m").is_none());
}
