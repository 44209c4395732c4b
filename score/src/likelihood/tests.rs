use super::*;

const FEW: Bootstrap = Bootstrap { resamples: 10, seed: 0 };

/// ln of five shares of `sum`, the rest being other words.
fn row<'a>(gold: &'a str, log_probs: &'a [f64]) -> Likelihood<'a> {
    Likelihood { gold, log_probs }
}

#[test]
fn a_model_that_knows_has_an_area_of_one_whatever_it_would_rather_say() {
    // On the second row everything is e^-20 times less likely; its shares are the same.
    let (mi, norm) = ([-1.0, -0.1, -3.0, -3.0, -3.0], [-20.1, -21.0, -23.0, -23.0, -23.0]);
    let scores = score_likelihoods(Task::PtbTest, &[row("MI", &mi), row("NORM", &norm)], FEW).unwrap();
    assert_eq!(scores.metric("macro_roc_auc").unwrap().value, Some(1.0));
    let auc: Vec<_> = scores.classes.iter().map(|class| (class.name.as_str(), class.auc)).collect();
    assert_eq!(auc[..3], [("NORM", Some(1.0)), ("MI", Some(1.0)), ("STTC", None)]);
    assert!(scores.metric("accuracy_of_likeliest").is_none(), "a set of labels has no likeliest one");
}

#[test]
fn the_likeliest_letter_is_an_answer() {
    let b: Vec<f64> = "abcdefgh".chars().map(|c| if c == 'b' { -0.5 } else { -4.0 }).collect();
    let rows = [row("B. sinus rhythm", &b), row("C", &b)];
    let scores = score_likelihoods(Task::CsnTest, &rows, FEW).unwrap();
    assert_eq!(scores.metric("accuracy_of_likeliest").unwrap().value, Some(0.5));
    assert_eq!(scores.classes[1].predicted, 2);
}

#[test]
fn tasks_without_a_list_of_answers_have_none() {
    assert_eq!(candidates(Task::EcgqaTest), None);
    assert!(score_likelihoods(Task::Arena, &[], FEW).is_none());
}
