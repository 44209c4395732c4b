use super::*;

fn of(name: &str) -> Option<String> {
    let given = [(OsString::from(name), OsString::from("value"))].into_iter();
    of_worker(given, 1, Group::alone(4))
        .get(std::ffi::OsStr::new(name))
        .map(|value| value.to_string_lossy().into_owned())
}

#[test]
fn secrets_never_reach_a_worker() {
    for name in [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "hf_token",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "WANDB_API_KEY",
        "ECG_TRAIN_JOB_KEY",
        "PGPASSWORD",
        "MYSQL_PASSWD",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ] {
        assert_eq!(of(name), None, "{name}");
    }
}

#[test]
fn a_secret_is_known_by_its_value_too() {
    let given = [
        ("HF_TOKEN", "hf_canary_0123"),
        ("GIT_CONFIG_PARAMETERS", "'http.extraHeader=Authorization: hf_canary_0123'"),
        ("HTTPS_PROXY", "http://user:canary@proxy:3128/"),
        ("HTTP_PROXY", "http://proxy:3128/"),
        ("MY_CREDENTIALS", "/usr/local"),
        ("PATH", "/usr/local/bin:/bin"),
    ];
    let given = given.into_iter().map(|(name, value)| (name.into(), value.into()));
    let seen = of_worker(given, 0, Group::alone(1));
    let left = |name: &str| seen.contains_key(std::ffi::OsStr::new(name));
    let names = ["HF_TOKEN", "GIT_CONFIG_PARAMETERS", "HTTPS_PROXY", "HTTP_PROXY", "MY_CREDENTIALS", "PATH"];
    assert_eq!(names.map(left), [false, false, false, true, false, true]);
}

#[test]
fn what_a_worker_needs_reaches_it() {
    for name in ["PATH", "HOME", "HF_HOME", "CUDA_VISIBLE_DEVICES", "RUST_LOG", "LD_LIBRARY_PATH", "KEYBOARD"] {
        assert_eq!(of(name).as_deref(), Some("value"), "{name}");
    }
}

#[test]
fn the_ranks_own_variables_replace_inherited_ones() {
    for (name, expected) in [
        ("RANK", "1"),
        ("LOCAL_RANK", "1"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "0"),
        ("RAYON_NUM_THREADS", &threads_per_worker(4).to_string()),
    ] {
        assert_eq!(of(name).as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn every_worker_has_a_thread() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(threads_per_worker(1), cores);
    assert_eq!(threads_per_worker(1024), 1.max(cores / 1024));
}
