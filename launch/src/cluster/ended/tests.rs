use super::*;

fn failed(may_pass: bool, lost_a_peer: bool, last_step: u64) -> Ended {
    let message = "error: a\nb".to_owned();
    Ended::Failed(Failed { rank: 0, message, exit_code: 5, may_pass, lost_a_peer, first_step: 3, last_step })
}

#[test]
fn nodes_that_hear_the_same_judge_the_same() {
    let (fatal, lost, peer) = (failed(false, false, 5), failed(true, false, 5), failed(true, true, 6));
    let (done, stop, cut) =
        (Ended::Finished, Ended::Stopped { at_boundary: true }, Ended::Stopped { at_boundary: false });
    let blamed = |node, last_step| Joint::Failed { node, first_step: 3, last_step };
    for (all, expected) in [
        (vec![&done, &done], Joint::Finished),
        (vec![&stop, &stop], Joint::Stopped { at_boundary: true }),
        (vec![&stop, &cut], Joint::Stopped { at_boundary: false }),
        (vec![&peer, &cut], Joint::Stopped { at_boundary: false }),
        (vec![&stop, &fatal], blamed(1, 5)),
        (vec![&peer, &lost], blamed(1, 6)),
        (vec![&peer, &peer], blamed(0, 6)),
        (vec![&lost, &done], blamed(0, 5)),
    ] {
        let all: Vec<Ended> = all.into_iter().cloned().collect();
        assert_eq!(judge(&all), expected, "{all:?}");
    }
}

#[test]
fn only_what_others_cannot_survive_ends_them() {
    assert!(failed(true, true, 1).ends_all() && Ended::Stopped { at_boundary: false }.ends_all());
    assert!(!Ended::Finished.ends_all() && !Ended::Stopped { at_boundary: true }.ends_all());
}

#[test]
fn messages_that_travel_are_bounded() {
    let Ended::Failed(long) = failed(true, false, 1) else { panic!("it failed") };
    let long = Failed { message: "é".repeat(MAX_MESSAGE), ..long }.bounded();
    assert!(long.message.len() <= MAX_MESSAGE && long.message.chars().all(|c| c == 'é'));
}
