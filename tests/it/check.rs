//! `check` says everything that would stop a run, at once and on a page of 80 columns, and leaves nothing behind.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::journey::{Run, program, succeed};

/// `check --cpus 2` of a run's config with changes.
fn check(run: &Run, more: &[&str], changes: &[&str]) -> Output {
    let config = run.path("config.toml");
    let mut args = vec!["check", "--config", &config];
    args.extend(more);
    changes.iter().for_each(|change| args.extend(["--set", change]));
    program(&args)
}

/// Ends with `code` and a page that holds every text of `named`.
#[track_caller]
fn says(run: &Run, changes: &[&str], code: i32, named: &[&str]) {
    let output = check(run, &["--cpus", "2"], changes);
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{changes:?} said:\n{page}");
    let flat = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in named {
        assert!(flat.contains(text), "{changes:?} does not say {text}:\n{page}");
    }
}

#[test]
fn a_run_that_can_start_is_multiplied_out_on_eighty_columns() {
    let run = Run::synthetic();
    says(
        &run,
        &["train.epochs=2"],
        0,
        &[
            "60 rows to train on",
            "3 micro-batches of 2 for 2 ranks",
            "10 steps an epoch; 20 steps in all = 2.00 epochs",
        ],
    );
    says(&run, &["train.global_batch_size=8"], 0, &["2 rows x 2 ranks x 2 micro-batches = 8 rows a step"]);
    says(&run, &[], 0, &["memory", "kept activations", "gradient sums"]);
    let page = String::from_utf8(check(&run, &["--cpus", "2", "--table"], &[]).stdout).unwrap();
    assert!(page.contains("rows a micro-batch      none    vision     block"), "{page}");
    let long = |line: &&str| line.chars().count() > 80 && line.split_whitespace().count() > 3;
    assert_eq!(page.lines().find(long), None, "{page}");
    assert!(!Path::new(&run.path("run")).exists(), "check makes no run folder");
}

#[test]
fn every_problem_is_said_at_once_with_the_exit_code_of_the_first() {
    let run = Run::synthetic();
    says(
        &run,
        &["train.learning_rte=1e-3", "lora.r=0", "train.precision=\"fp16\"", "data.shuffle=7"],
        2,
        &["`learning_rte`; did you mean `learning_rate`?", "`r` must be", "`fp16`", "true, false or \"hf\""],
    );
    says(&run, &["lora.r=0", "lora.dropout=1.5", "train.eps=0"], 2, &["lora.r", "dropout"]);
    says(&run, &["model.path=/no/model", "data.train=/no/*.parquet"], 2, &["/no/model", "/no/*.parquet"]);
    says(&run, &["data.train=/no/*.parquet"], 3, &["/no/*.parquet"]);
    says(&run, &["lora.target_modules=[\"q_porj\"]"], 2, &["q_porj"]);
    says(&run, &["train.micro_batch_size=6"], 2, &["2 ranks cannot share 1 micro-batches"]);
}

#[test]
fn rows_are_looked_at_as_the_run_will_read_them() {
    let run = Run::synthetic();
    says(
        &run,
        &[],
        0,
        &["60 of 60 rows read, decoded and rendered", "16 are the page", "% of their tokens are learned", "<bos> 2"],
    );
    says(
        &run,
        &["data.max_seq_len=60"],
        0,
        &["60 of 60 are longer than 60 tokens and lose their end", "data.max_seq_len"],
    );
    says(&run, &["data.max_seq_len=10"], 3, &["(id synthetic-0000000)", "(id synthetic-0000001)", "and 57 bad rows"]);
    says(&run, &["data.max_seq_len=10", "data.max_bad_rows=60"], 0, &["(id synthetic-0000000)", "is left out"]);
    let no_rows = check(&run, &["--rows", "0"], &["data.max_seq_len=10"]);
    assert_eq!(no_rows.status.code(), Some(0), "nobody looked");
}

#[test]
fn a_row_is_shown_as_the_model_is_taught_it() {
    let run = Run::synthetic();
    let shown = |changes: &[&str]| {
        let page = String::from_utf8(check(&run, &["--show-row", "3"], changes).stdout).unwrap();
        let (_, row) = page.split_once("\nrow 3 (id synthetic-0000003): ").unwrap_or_else(|| panic!("{page}"));
        row.to_owned()
    };
    let row = shown(&["data.loss_on=assistant"]);
    assert!(row.contains("<start_of_turn>model\n[[") && row.contains("<end_of_turn>]]"), "{row}");
    assert!(row.contains("<image_soft_token> x 16<end_of_image>"), "{row}");
    let thumbnail = row.lines().find_map(|line| line.strip_prefix("page: ")).unwrap();
    assert!(std::fs::read(thumbnail).unwrap().starts_with(b"\x89PNG"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(thumbnail).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "a page is nobody else's");
    std::fs::remove_file(thumbnail).unwrap();
    assert!(shown(&["data.loss_on=all"]).contains("[[<bos><start_of_turn>user"), "all of it is learned");
    // Whoever did not ask, and reads no terminal, sees no row.
    let page = String::from_utf8(check(&run, &[], &[]).stdout).unwrap();
    assert!(!page.contains("<start_of_turn>user"), "{page}");
}

#[test]
fn disk_network_and_time_are_looked_at() {
    let run = Run::synthetic();
    says(&run, &[], 0, &["3 checkpoints of", "free at", "ranks meet on 127.0.0.1"]);
    says(&run, &["checkpoint.keep=100000000"], 0, &["100000001 checkpoints of", "do not fit", "checkpoint.keep"]);
    let flat = |more: &[&str], code: i32| {
        let output = check(&run, more, &[]);
        let page = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{page}");
        page.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let page = flat(&["--rows-per-second", "0.5"], 0);
    assert!(page.contains("10 steps of 6 rows take 2:00 at 0.50 rows/s, as given"), "{page}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = taken.local_addr().unwrap().to_string();
    let page = flat(&["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", &endpoint], 2);
    assert!(page.contains(&format!("cannot listen on {endpoint}")), "{page}");
    let page = flat(&["--nnodes", "2", "--node-rank", "0", "--rdzv-interface", "no0"], 2);
    assert!(page.contains("--rdzv-interface no0: no such interface here"), "{page}");
    let page = flat(&["--cpus", "1", "--nnodes", "3", "--node-rank", "1"], 0);
    assert!(page.contains("2 rows x 3 ranks x 1 micro-batches = 6 rows a step"), "{page}");
    run.must_launch(1, &["train.max_steps=2"]);
    let output = check(&run, &[], &["train.max_steps=2"]);
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("0 steps of 6 rows") && page.contains("its last 2 steps"), "{page}");
}

#[test]
fn a_script_reads_the_same_as_json() {
    let run = Run::synthetic();
    let output = check(&run, &["--json"], &["data.train=/no/*.parquet"]);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let section = |name: &str| report["sections"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap();
    assert_eq!(section("data")["findings"][0]["exit_code"], 3);
    assert_eq!(section("model")["findings"][0]["level"], "ok");
}

#[test]
fn splits_that_share_recordings_or_pages_are_an_error_unless_allowed() {
    let run = Run::synthetic();
    let rows = run.path("data/train-*.parquet");
    let eval = [format!("data.eval={rows}"), "data.eval_every=5".to_owned()];
    let eval: Vec<&str> = eval.iter().map(String::as_str).collect();
    says(&run, &eval, 3, &["data.train and data.eval share recordings: 60", "synthetic-0000000", "look alike"]);
    let allowed = check(&run, &["--allow-leaks", "--pages", "0"], &eval);
    let page = String::from_utf8(allowed.stdout).unwrap();
    assert_eq!(allowed.status.code(), Some(0), "{page}");
    assert!(page.contains("warning"), "{page}");
    let held_out = [format!("data.eval={}", run.path("data/held-out.parquet")), "data.eval_every=5".to_owned()];
    let held_out: Vec<&str> = held_out.iter().map(String::as_str).collect();
    says(
        &run,
        &held_out,
        0,
        &[
            "2 evaluations of all rows of data.eval: every 5 steps",
            "share no patient, recording or page",
            "of data.train with 6 pages of data.eval",
        ],
    );
}

/// One row by its own page, drawn at another size: other bytes, and an id and a path that say nothing.
#[test]
fn a_look_alike_is_found_among_all_pages_of_prepared_folders() {
    let run = Run::synthetic();
    let rows = data::Sources { files: vec![run.path("data/train-*.parquet").into()], ..data::Sources::default() };
    let of_train = data::Dataset::open(&rows).unwrap().row(41).unwrap();
    let page = data::decode(&of_train.image).unwrap().thumbnail(500).unwrap();
    std::fs::create_dir(run.path("copy")).unwrap();
    storage::publish_file(Path::new(&run.path("copy/redrawn.png")), &page).unwrap();
    let turns = serde_json::json!([{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]);
    let row = serde_json::json!([{"id": "another", "image": "redrawn.png", "conversations": turns}]);
    storage::publish_file(Path::new(&run.path("copy/rows.json")), row.to_string().as_bytes()).unwrap();
    let prepare = |source: &str, out: &str| {
        succeed(&["prepare", "--source", &run.path(source), "--out", &run.path(out)]);
        run.path(out)
    };
    let train = format!("data.train={}", prepare("data/train-*.parquet", "train"));
    let compare = |eval: String, code: i32| {
        let eval = format!("data.eval={eval}");
        // No page is decoded for this.
        let output = check(&run, &["--pages", "0"], &[&train, &eval, "data.eval_every=5"]);
        let page = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{page}");
        page.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let page = compare(prepare("copy/rows.json", "redrawn"), 0);
    let said = format!(
        "60 pages (all) of data.train with 1 page (all) of data.eval: pairs that look alike: 1, for example rows {} and another",
        of_train.id
    );
    assert!(page.contains(&said), "no {said}: {page}");
    let page = compare(prepare("data/held-out.parquet", "held-out"), 0);
    assert!(page.contains("with 2 pages (all) of data.eval: none look alike"), "{page}");
}
