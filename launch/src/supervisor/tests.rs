use super::*;

#[test]
fn a_signal_is_named() {
    assert!(died_by(SIGKILL).contains("SIGKILL (9)") && died_by(SIGKILL).contains("memory"));
    assert_eq!(died_by(11), "was killed by SIGSEGV (11)");
}

#[test]
fn job_keys_differ() {
    assert_ne!(new_job_key().unwrap(), new_job_key().unwrap());
}
