use super::*;

#[test]
fn a_fault_is_of_one_rank_and_of_the_first_attempt_unless_it_says_otherwise() {
    let of = |rank, attempt| Faults::parse("nan@1:7,slow=50@1:*!", rank, attempt).unwrap().0.len();
    assert_eq!((of(0, 0), of(1, 0), of(1, 1)), (0, 2, 1));
    for wrong in ["nan", "nan@1", "nan@x:1", "nan@1:x", "nan=x@1:1"] {
        assert_eq!(Faults::parse(wrong, 0, 0).unwrap_err(), wrong);
    }
}

#[test]
fn nothing_happens_in_a_build_without_the_feature() {
    let faults = Faults::parse("nan@0:7,slow=50@0:*", 0, 0).unwrap();
    let (nan, slow) = (faults.at("nan", 7), faults.at("slow", 3));
    assert_eq!(faults.at("nan", 6), None);
    assert_eq!((nan, slow), if cfg!(feature = "faults") { (Some(0), Some(50)) } else { (None, None) });
}
