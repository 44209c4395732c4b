//! A secret in the environment of `launch` reaches no worker, no file and no message.

use std::fs;

use super::rig::{Job, for_each_file, signal, wait_for};

const CANARY: &str = "canary-4b1dd47a";

#[test]
fn a_canary_is_nowhere_even_after_crashes() {
    let job = Job::new();
    let mut command = job.command("launch");
    command.args(["--cpus", "2"]);
    for name in
        ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    {
        command.env(name, CANARY);
    }
    command
        .env("WANDB_API_KEY", CANARY)
        .env("PGPASSWORD", CANARY)
        .env("HTTPS_PROXY", format!("http://me:{CANARY}@proxy"));
    command.env("SOME_HEADER", format!("Bearer {CANARY}"));
    // A panic whose message holds the canary's first word, in the attempt after a kill.
    command.env("RUST_BACKTRACE", "1").env("RUST_LOG", "debug").env("ECG_TRAIN_FAULTS", "decoder_panic=100@0:*!");
    let launched = job.start(&mut command);
    wait_for("the workers", || job.worker(1).is_some());
    for rank in [0, 1] {
        let environ = fs::read(format!("/proc/{}/environ", job.worker(rank).unwrap())).unwrap();
        assert!(!holds_canary(&environ), "rank {rank} knows the secret");
    }
    job.wait_for_step(4);
    signal("KILL", job.worker(1).unwrap());
    let said = launched.must_end(3, &["rank 0"]);
    assert!(!said.contains("canary"), "{said}");
    let mut n_files = 0;
    for_each_file(&job.path("run"), &mut |path| {
        n_files += 1;
        assert!(path.is_dir() || !holds_canary(&fs::read(path).unwrap()), "{} knows the secret", path.display());
    });
    assert!(n_files > 5);
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"canary")
}
