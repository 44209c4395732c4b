use super::*;

#[test]
fn job_keys_differ() {
    assert_ne!(new_job_key().unwrap(), new_job_key().unwrap());
}
