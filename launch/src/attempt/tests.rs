use super::*;

#[test]
fn a_signal_is_named() {
    assert!(died_by(SIGKILL).contains("SIGKILL (9)") && died_by(SIGKILL).contains("memory"));
    assert_eq!(died_by(11), "was killed by SIGSEGV (11)");
}

#[test]
fn a_place_is_named_as_far_as_it_is_known() {
    assert_eq!(in_phase(0, Phase::Opening), " in opening");
    assert_eq!(in_phase(7, Phase::AllReduce), " in all-reduce of step 7");
}
