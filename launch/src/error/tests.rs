use super::*;

fn check_code(error: Error, expected: u8) {
    assert_eq!(error.exit_code(), expected, "{error}");
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let file = |action| Error::file(Path::new("x"), action)(io::ErrorKind::StorageFull.into());
    check_code(model::engine::DeviceError::NoneBuilt.into(), 2);
    check_code(Error::NoOrders, 2);
    check_code(Error::ForeignDir("x".into()), 2);
    check_code(Error::Page { path: "x".into(), source: data::PageError::Empty }, 3);
    check_code(Error::Prompt(data::Fault::NoTurns), 3);
    check_code(Error::DemoFailed("rate".to_owned()), 4);
    check_code(Error::Lost { rank: 1, how: "was killed".to_owned(), log: "l".into(), tail: String::new() }, 5);
    check_code(file("create"), 6);
    check_code(Error::DemoStopped, 75);
    check_code(Error::Worker { rank: 1, exit_code: 3, log: "l".into(), message: String::new() }, 3);
}

#[test]
fn the_chain_of_causes_is_shown_once() {
    let error = Error::file(Path::new("runs/x"), "create")(io::Error::other("disk full"));
    assert_eq!(describe(&error), "error: runs/x: cannot create it\n  caused by: disk full");
    let page = Error::Page { path: "a.png".into(), source: data::PageError::Empty };
    assert_eq!(describe(&page), "error: a.png: not a usable page; give a PNG or JPEG file\n  caused by: 0 bytes");
}
