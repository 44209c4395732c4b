//! What TensorBoard shows of a run, interrupted and resumed: every number of the journal, each step once. Read by our own
//! reader everywhere, and by the `tensorboard` package where its command is on the PATH.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use trainer::tensorboard::{self, Event};

use crate::journey::Run;

/// Steps and values by tag.
type Points = BTreeMap<String, Vec<(u64, f32)>>;

fn points_of(events: &[Event]) -> Points {
    let mut points = Points::new();
    for event in events {
        for (tag, value) in &event.scalars {
            points.entry(tag.clone()).or_default().push((event.step, *value));
        }
    }
    points
}

/// The points of the only event file of a folder.
pub fn read(folder: &Path) -> Points {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    points_of(&tensorboard::read(&files.remove(0)).unwrap())
}

/// As the `tensorboard` package reads them; `None`, said aloud, where it is not.
fn read_by_tensorboard(folder: &Path) -> Option<Points> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(bin) = std::env::split_paths(&paths).find(|dir| dir.join("tensorboard").is_file()) else {
        eprintln!("skipped: reading event files with tensorboard itself; there is no `tensorboard` on the PATH");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/tensorboard_points.py");
    let output = Command::new(bin.join("python3")).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn tensorboard_shows_each_number_of_an_interrupted_run_once() {
    let run = Run::synthetic();
    let settings = ["data.shuffle=true", "log.tensorboard=true"];
    run.must_launch(2, &settings);
    let measured = run.journal();
    std::fs::remove_dir_all(run.path("run/checkpoint-10")).unwrap();
    run.must_launch(1, &settings);
    assert_eq!(run.journal(), measured, "the run made steps 6 to 10 twice");

    let expected = points_of(&measured.iter().map(Event::train).collect::<Vec<_>>());
    let tags = [
        "train/answer_token_accuracy",
        "train/data_wait",
        "train/entropy",
        "train/epoch",
        "train/grad_norm",
        "train/learning_rate",
        "train/loss",
        "train/mean_token_accuracy",
        "train/num_tokens",
        "train/prompt_token_accuracy",
        "train/rows_per_second",
    ];
    assert_eq!(expected.keys().collect::<Vec<_>>(), tags);
    assert!(expected.values().all(|points| points.iter().map(|(step, _)| *step).eq(1..=10)));
    let folder = PathBuf::from(run.path("run/tensorboard"));
    assert_eq!(read(&folder), expected);
    if let Some(points) = read_by_tensorboard(&folder) {
        assert_eq!(points, expected);
    }
}

#[test]
fn a_folder_that_takes_no_event_file_stops_no_run() {
    let run = Run::synthetic();
    std::fs::create_dir(run.path("run")).unwrap();
    storage::publish_file(Path::new(&run.path("run/tensorboard")), b"no folder").unwrap();
    let output = run.launch(1, &["train.max_steps=2", "log.tensorboard=true"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: rank 0: ") && said.contains("TensorBoard gets no further points"), "{said}");
    assert_eq!(run.journal().len(), 2);
}
