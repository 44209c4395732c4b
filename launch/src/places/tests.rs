use super::*;

#[track_caller]
fn check_same(known: &str, asked: &str, kept: bool) {
    let id = |text| HubId::dataset(text, Split::Train).unwrap();
    assert_eq!(same(&id(known), &id(asked)), kept, "{known} then {asked}");
}

#[test]
fn a_run_keeps_the_commit_it_began_with_unless_another_is_named() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    check_same(&format!("a/b@{commit}"), "a/b", true);
    check_same(&format!("a/b@{commit}"), "a/b@v2", true);
    check_same(&format!("a/b@{commit}"), &format!("a/b@{}", commit.replace('0', "9")), false);
    check_same(&format!("a/b@{commit}"), "a/c", false);
    check_same(&format!("hf://datasets/a/b@{commit}/x"), "hf://datasets/a/b/y", false);
}
