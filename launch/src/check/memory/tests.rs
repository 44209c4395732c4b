use super::*;

#[test]
fn what_never_fits_is_an_error_and_what_may_not_fit_a_warning() {
    let code = |most, least| short(2, most, least, 100).map(|finding| finding.exit_code());
    assert_eq!(code(50, 40), None);
    assert_eq!(code(51, 50), Some(None));
    assert_eq!(code(60, 51), Some(Some(2)));
}

#[test]
fn the_system_tells_what_is_available_where_there_is_proc() {
    assert_eq!(available().is_some(), std::path::Path::new("/proc/meminfo").exists());
}
