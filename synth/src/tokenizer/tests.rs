use super::*;

fn loaded() -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(Tokenizer::new().json().to_string()).unwrap()
}

fn pieces(text: &str) -> Vec<String> {
    loaded().encode(text, false).unwrap().get_tokens().to_vec()
}

#[test]
fn every_question_and_answer_is_whole_words() {
    let tokenizer = loaded();
    for text in Question::ALL.iter().flat_map(|q| q.answers().iter().copied().chain([q.text()])) {
        let n_words = text.split(' ').count();
        let n_marks = text.chars().filter(|c| c.is_ascii_punctuation()).count();
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoding.len(), n_words + n_marks, "{text}: {:?}", encoding.get_tokens());
        assert!(encoding.get_ids().iter().all(|&id| id >= SPECIAL.len() as u32), "{text}: {:?}", encoding.get_tokens());
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
    }
}

#[test]
fn a_turn_is_special_tokens_newlines_and_words() {
    assert_eq!(
        pieces(
            "<bos><start_of_turn>user\n\n\n<start_of_image><image_soft_token><end_of_image>\n\nIs this P?<end_of_turn>\n"
        ),
        [
            "<bos>",
            "<start_of_turn>",
            "user",
            "\n\n\n",
            "<start_of_image>",
            "<image_soft_token>",
            "<end_of_image>",
            "\n\n",
            "Is",
            "▁this",
            "▁P",
            "?",
            "<end_of_turn>",
            "\n",
        ]
    );
    let with_bos = loaded().encode("model", true).unwrap();
    assert_eq!(with_bos.get_tokens(), ["<bos>", "model"]);
}

#[test]
fn any_other_text_comes_back_through_bytes() {
    for text in ["Fréquence cardiaque 60 µV", "心电图 🫀", "two  spaces, three   spaces", "tab\there", "nonormalnot"]
    {
        let ids = loaded().encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(loaded().decode(&ids, true).unwrap(), text);
        assert!(!ids.contains(&3), "{text}: nothing is unknown");
    }
    assert_eq!(pieces("é"), ["<0xC3>", "<0xA9>"]);
}

#[test]
fn ids_are_those_of_gemma_where_it_matters() {
    let tokenizer = Tokenizer::new();
    let ids = ["<pad>", "<eos>", "<bos>", "<unk>"].map(|token| tokenizer.id(token));
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!(tokenizer.id(SOFT_TOKEN), tokenizer.len() - 1, "the soft token is the last id");
    assert_eq!(loaded().get_vocab_size(true), tokenizer.len());
    let distinct: BTreeSet<_> = tokenizer.tokens.iter().collect();
    assert_eq!(distinct.len(), tokenizer.len());
}

#[test]
fn parts_are_those_of_the_reference_tokenizer() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tokenizer/tokenizer.json");
    let reference: Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let ours = Tokenizer::new().json();
    for part in ["version", "truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        assert_eq!(ours[part], reference[part], "{part}");
    }
    for (key, value) in reference["model"].as_object().unwrap() {
        if key != "vocab" && key != "merges" {
            assert_eq!(ours["model"][key], *value, "model.{key}");
        }
    }
    let contents = |json: &Value| {
        let added = json["added_tokens"].as_array().unwrap().iter().map(|token| {
            let mut token = token.clone();
            token.as_object_mut().unwrap().remove("id");
            token
        });
        added.collect::<Vec<_>>()
    };
    assert_eq!(contents(&ours), contents(&reference));
}
