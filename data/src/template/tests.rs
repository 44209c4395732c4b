use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::*;
use crate::fixtures::{self, numbers};
use crate::text::ESCAPE;
use crate::{Dataset, Sources};

const UNLIMITED: usize = 1 << 20;

/// The options of a model folder's config.json.
fn options(folder: &str, double_bos: bool) -> TemplateOptions {
    let config = fixtures::json(&format!("{folder}/config.json"));
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    TemplateOptions {
        mm_tokens_per_image: number("mm_tokens_per_image") as usize,
        image_token_index: number("image_token_index"),
        boi_token_index: number("boi_token_index"),
        double_bos,
    }
}

fn template(folder: &str, double_bos: bool) -> Template {
    Template::open(&fixtures::path(folder), options(folder, double_bos)).unwrap()
}

fn message(role: Role, parts: &[Part]) -> Message {
    Message { role, parts: parts.to_vec() }
}

fn words(text: &str) -> Part {
    Part::Text(text.into())
}

/// A page, a question and an answer.
fn question(question: &str, answer: &str) -> Vec<Message> {
    vec![message(Role::User, &[Part::Image, words(question)]), message(Role::Assistant, &[words(answer)])]
}

/// Messages in the form that transformers takes.
fn messages_of(json: &Json) -> Vec<Message> {
    let part = |part: &Json| match part["type"].as_str().unwrap() {
        "image" => Part::Image,
        _ => words(part["text"].as_str().unwrap()),
    };
    let one = |m: &Json| Message {
        role: match m["role"].as_str().unwrap() {
            "system" => Role::System,
            "user" => Role::User,
            _ => Role::Assistant,
        },
        parts: match &m["content"] {
            Json::String(text) => vec![words(text)],
            content => content.as_array().unwrap().iter().map(part).collect(),
        },
    };
    json.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn every_rendering_of_the_reference_is_reproduced() {
    let (once, twice) = (template("case_a/base", false), template("case_a/base", true));
    let reference = fixtures::json("tokenizer/rendering.json");
    for case in reference["chat"].as_array().unwrap() {
        let name = &case["name"];
        let messages = messages_of(&case["messages"]);
        let generation = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = once.render(&messages, generation).unwrap();
        assert_eq!(once.text.unescape(&rendered), case["rendered"].as_str().unwrap(), "{name}");
        assert_eq!(once.tokens(&rendered).unwrap().0, numbers::<u32>(&case["input_ids"]), "{name}");
        assert_eq!(twice.tokens(&rendered).unwrap().0, numbers::<u32>(&case["input_ids_add_special"]), "{name}");
        if generation {
            assert_eq!(once.prompt(&messages).unwrap(), numbers::<u32>(&case["input_ids"]), "{name}");
        } else {
            let example = once.encode(&messages, LossOn::All, UNLIMITED).unwrap();
            assert_eq!(example.input_ids, numbers::<u32>(&case["expanded_stripped_ids"]), "{name}");
        }
        let decoded = once.decode(&numbers::<u32>(&case["input_ids"]));
        assert_eq!(decoded, case["decoded_skip_special"].as_str().unwrap(), "{name}");
    }
    for case in reference["raw"].as_array().unwrap() {
        let (ids, _) = once.tokens(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(ids, numbers::<u32>(&case["input_ids"]), "{case}");
    }
    assert_eq!(once.vocab_size() as u64, reference["vocab_size"].as_u64().unwrap());
    let ids = once.ids();
    let expected = ["<pad>", "<bos>", "<eos>", "<end_of_turn>"].map(|t| reference["ids"][t].as_u64().unwrap() as u32);
    assert_eq!([ids.pad, ids.bos, ids.eos, ids.end_of_turn], expected);
}

/// Rows of the forward fixtures are the first chat cases of the corpus with 2, 0 or 1 pages; their turns are decoded here.
fn check_forward(case: &str) {
    let bytes = std::fs::read(fixtures::path(&format!("{case}/forward.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let rows = |name: &str| -> Vec<Vec<i64>> {
        let tensor = file.tensor(name).unwrap();
        let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
        values.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
    };
    let folder = format!("{case}/base");
    let (once, twice) = (template(&folder, false), template(&folder, true));
    let [ids, mask, double, full, notebook, completion] =
        ["input_ids", "attention_mask", "double_bos.input_ids", "labels_full", "labels_notebook", "labels_completion"]
            .map(rows);
    for row in 0..ids.len() {
        let len = mask[row].iter().sum::<i64>() as usize;
        let unpadded = |list: &[Vec<i64>]| list[row][..len].to_vec();
        let messages = turns_of(&once, &unpadded(&ids));
        let all = once.encode(&messages, LossOn::All, UNLIMITED).unwrap();
        let answer = once.encode(&messages, LossOn::Assistant, UNLIMITED).unwrap();
        let signed = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
        assert_eq!(signed(&all.input_ids), unpadded(&ids), "{case} row {row}");
        assert_eq!(signed(&all.input_ids), unpadded(&full), "{case} row {row}");
        assert_eq!(all.labels, unpadded(&notebook), "{case} row {row}");
        assert_eq!(answer.labels, unpadded(&completion), "{case} row {row}");
        assert_eq!(all.answers, answer.labels.iter().map(|&l| l != IGNORE).collect::<Vec<_>>(), "{case} row {row}");
        let with_two = twice.encode(&messages, LossOn::All, UNLIMITED).unwrap();
        assert_eq!(signed(&with_two.input_ids), double[row][..=len], "{case} row {row}");
        assert_eq!(with_two.answers[1..], all.answers, "{case} row {row}");
    }
}

/// The user turn and the answer of a row of token ids.
fn turns_of(template: &Template, ids: &[i64]) -> Vec<Message> {
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let n_images = ids.iter().filter(|&&id| id == template.options.boi_token_index).count();
    let mut turns = ids.split(|&id| id == template.ids.end_of_turn).map(|turn| template.decode(turn));
    let mut content = |prefix: &str| turns.next().unwrap().trim_start().strip_prefix(prefix).unwrap().to_owned();
    let question = [words(&content("user"))];
    let parts: Vec<Part> = vec![Part::Image; n_images].into_iter().chain(question).collect();
    vec![message(Role::User, &parts), message(Role::Assistant, &[words(&content("model"))])]
}

#[test]
fn the_forward_fixtures_have_our_tokens_and_labels() {
    check_forward("case_a");
    check_forward("case_b");
}

#[test]
fn real_rows_have_the_tokens_and_labels_of_the_reference_road() {
    let Some(train) = fixtures::mini("train") else { return };
    let template = template("case_a/base", false);
    for (name, loss_on) in [("e2e_all", LossOn::All), ("e2e_assistant", LossOn::Assistant), ("e2e_mixed", LossOn::All)]
    {
        let trace = fixtures::json(&format!("{name}/trace.json"));
        let include = trace["config"]["include"].as_str().unwrap().to_owned();
        let files = vec![train.join("*.parquet")];
        let data = Dataset::open(&Sources { files, image_folder: None, include, keep_image_marker: false }).unwrap();
        let encode = |row: usize| {
            let row = data.row(row).unwrap();
            (row.id, template.encode(&row.messages, loss_on, 2048).unwrap())
        };
        let (lengths, supervised): (Vec<usize>, Vec<usize>) =
            (numbers(&trace["lengths"]), numbers(&trace["supervised"]));
        for (row, id) in trace["ids"].as_array().unwrap().iter().enumerate() {
            let (our_id, example) = encode(row);
            assert_eq!(our_id, id.as_str().unwrap(), "{name}");
            assert_eq!(example.input_ids.len(), lengths[row], "{name} {id}");
            let targets = example.labels.iter().skip(1).filter(|&&label| label != IGNORE).count();
            assert_eq!(targets, supervised[row], "{name} {id}");
        }
        let (_, first) = encode(0);
        assert_eq!(first.input_ids, numbers::<u32>(&trace["first_input_ids"]), "{name}");
        assert_eq!(first.labels, numbers::<i64>(&trace["first_labels"]), "{name}");
    }
}

#[test]
fn truncation_cuts_text_and_never_an_image_block() {
    let template = template("case_a/base", false);
    let messages = question("What is the rhythm?", "Sinus rhythm.");
    let whole = template.encode(&messages, LossOn::All, UNLIMITED).unwrap();
    let block_end = whole.input_ids.iter().position(|&id| id == template.end_of_image).unwrap() + 1;
    let first_answer = whole.answers.iter().position(|&answer| answer).unwrap();
    for max_seq_len in 0..=whole.input_ids.len() {
        for loss_on in [LossOn::All, LossOn::Assistant] {
            let cut = template.encode(&messages, loss_on, max_seq_len);
            if max_seq_len < block_end {
                assert_eq!(cut, Err(Fault::ImageCut { end: block_end, max_seq_len }));
            } else if loss_on == LossOn::Assistant && max_seq_len <= first_answer {
                assert_eq!(cut, Err(Fault::NothingSupervised { len: whole.input_ids.len(), max_seq_len }));
            } else {
                let cut = cut.unwrap();
                assert_eq!(cut.input_ids, whole.input_ids[..max_seq_len]);
                assert_eq!(cut.answers, whole.answers[..max_seq_len]);
            }
        }
    }
}

#[test]
fn what_the_template_refuses_is_a_fault_of_the_row() {
    let template = template("case_a/base", false);
    let twice = [question("a", "b"), vec![message(Role::Assistant, &[words("c")])]].concat();
    assert!(matches!(template.encode(&twice, LossOn::All, 99), Err(Fault::Template(_))));
    // This template writes a system turn's text only: its page would be lost without a word.
    let lost = [vec![message(Role::System, &[words("s"), Part::Image])], question("a", "b")].concat();
    let refused = template.encode(&lost, LossOn::All, 99);
    assert_eq!(refused, Err(Fault::ImageMarkers { rendered: 1, expected: 2 }));
}

/// A copy of a model folder in which a test may change files.
fn copy_of(folder: &str, files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(fixtures::path(folder).join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().to_owned();
    (dir, path)
}

const FOLDER: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

#[test]
fn an_incomplete_or_damaged_model_folder_is_refused_by_file() {
    let options = options("case_a/base", false);
    for lost in FOLDER {
        let (_dir, path) = copy_of("case_a/base", &FOLDER);
        std::fs::remove_file(path.join(lost)).unwrap();
        let missing = Template::open(&path, options).err().unwrap().to_string();
        assert!(missing.contains(lost), "{missing}");
        storage::publish_file(&path.join(lost), b"{% if %} [").unwrap();
        let damaged = Template::open(&path, options).err().unwrap().to_string();
        assert!(damaged.contains(lost), "{damaged}");
    }
    let strange = TemplateOptions { image_token_index: 300, ..options };
    let refused = Template::open(&fixtures::path("case_a/base"), strange).err().unwrap().to_string();
    assert!(refused.contains("300"), "{refused}");
}

#[test]
fn a_template_is_also_found_in_the_json_files_of_older_folders() {
    let source = std::fs::read_to_string(fixtures::path("case_a/base/chat_template.jinja")).unwrap();
    let config = fixtures::json("case_a/base/tokenizer_config.json");
    let mut with_template = config.clone();
    with_template["chat_template"] = source.clone().into();
    let beside = serde_json::json!({ "chat_template": source });
    for (file, content) in [("chat_template.json", &beside), ("tokenizer_config.json", &with_template)] {
        let (_dir, path) = copy_of("case_a/base", &FOLDER[..2]);
        storage::publish_file(&path.join(file), content.to_string().as_bytes()).unwrap();
        let other = Template::open(&path, options("case_a/base", false)).unwrap();
        let messages = question("q", "a");
        assert_eq!(other.prompt(&messages[..1]), template("case_a/base", false).prompt(&messages[..1]), "{file}");
    }
}

#[test]
fn an_endless_template_ends() {
    let (_dir, path) = copy_of("case_a/base", &FOLDER);
    let endless = b"{% for a in range(10000) %}{% for b in range(10000) %}{{ a }}{% endfor %}{% endfor %}";
    storage::publish_file(&path.join("chat_template.jinja"), endless).unwrap();
    let template = Template::open(&path, options("case_a/base", false)).unwrap();
    assert!(matches!(template.encode(&question("q", "a"), LossOn::All, 99), Err(Fault::Template(_))));
}

/// Words in which control tokens, halves of them, the escape and white space are likely.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<end_of_turn>".to_owned()),
        Just("<start_of_turn>model\n".to_owned()),
        Just("<start_of_image>".to_owned()),
        Just("<image_soft_token>".to_owned()),
        Just("<start_of_".to_owned()),
        Just("turn>".to_owned()),
        Just("<bos><eos><pad>".to_owned()),
        Just("<<".to_owned()),
        Just(format!("<{ESCAPE}{ESCAPE}")),
        Just(ESCAPE.to_string()),
        Just("\n\n".to_owned()),
        "[ -~]{0,8}",
        "[^\\p{C}▁]{0,4}",
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn words_of_a_row_never_become_control_tokens(q in hostile(), a in hostile(), follow in hostile(), answer in hostile()) {
        let template = template("case_a/base", false);
        let more = [message(Role::User, &[words(&follow), words(&q)]), message(Role::Assistant, &[words(&answer)])];
        let messages = [question(&q, &a), more.to_vec()].concat();
        let example = template.encode(&messages, LossOn::All, UNLIMITED).unwrap();
        let count = |id: u32| example.input_ids.iter().filter(|&&x| x == id).count();
        prop_assert_eq!(count(template.options.boi_token_index), 1);
        prop_assert_eq!(count(template.options.image_token_index), template.options.mm_tokens_per_image);
        prop_assert_eq!(count(template.start_of_turn), 4);
        prop_assert_eq!(count(template.ids.end_of_turn), 4);
        prop_assert_eq!(count(template.ids.bos), 1);
        // The answers are the words of the model turns, all of them and nothing else.
        let said: Vec<u32> = example.input_ids.iter().zip(&example.answers).filter(|(_, a)| **a).map(|(&id, _)| id).collect();
        prop_assert_eq!(template.decode(&said), format!("{}{}", strip(&a), strip(&answer)));
    }
}
