use std::os::unix::fs::PermissionsExt;

use super::*;

fn door(dir: &Path, job: &str) -> Door {
    Door { key: None, endpoint: None, job: job.to_owned(), run_dir: dir.to_owned() }
}

fn addr() -> SocketAddr {
    "127.0.0.1:29500".parse().unwrap()
}

#[test]
fn key_and_address_go_through_the_run_folder_and_leave_with_node_0() {
    let dir = tempfile::tempdir().unwrap();
    let door = door(dir.path(), "7");
    assert!(door.look().unwrap().is_none());
    let open = door.open(addr()).unwrap();
    let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(door.look().unwrap() == Some((open.key, addr())));
    drop(open);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_another_start_left_is_not_taken_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let old = door(dir.path(), "7").open(addr()).unwrap();
    let next = door(dir.path(), "8");
    assert!(next.look().unwrap().is_none());
    let open = next.open(addr()).unwrap();
    assert!(open.key != old.key);
    assert!(next.look().unwrap() == Some((open.key, addr())));
}

#[test]
fn what_is_given_goes_before_the_run_folder() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 29500 };
    let both = Door { key: Some([7; 32]), endpoint: Some(endpoint), ..door(dir.path(), "") };
    assert!(both.open(addr()).unwrap().key == [7; 32]);
    assert!(both.look().unwrap() == Some(([7; 32], addr())));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing has to be left for the others");
    // A key that every node has does not belong in a file.
    let key = Door { key: Some([7; 32]), ..door(dir.path(), "") };
    let open = key.open(addr()).unwrap();
    assert!(!fs::read_to_string(dir.path().join(NAME)).unwrap().contains("0707"));
    assert!(key.look().unwrap() == Some(([7; 32], addr())));
    drop(open);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    storage::publish_private_file(&path, format!("{}\n", "0aF9".repeat(16)).as_bytes()).unwrap();
    assert_eq!(read_key(&path).unwrap()[..2], [0x0a, 0xf9]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let told = read_key(&path).err().unwrap().to_string();
    assert!(told.contains("640") && told.contains("chmod 600"), "{told}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    storage::publish_private_file(&path, b"no key").unwrap();
    let told = read_key(&path).err().unwrap().to_string();
    assert!(told.contains("64 hexadecimal digits"), "{told}");
    assert!(matches!(read_key(&dir.path().join("none")), Err(Error::KeyFile { .. })));
}

#[test]
fn a_job_key_is_64_hexadecimal_digits() {
    let key = parse_hex(&"0aF9".repeat(16)).unwrap();
    assert_eq!(key[..4], [0x0a, 0xf9, 0x0a, 0xf9]);
    assert!(parse_hex(&to_hex(&key)) == Some(key));
    for wrong in [String::new(), "0".repeat(63), "0".repeat(65), "g".repeat(64), "+1".repeat(32), "é".repeat(32)] {
        assert!(parse_hex(&wrong).is_none(), "{wrong}");
    }
}

#[test]
fn keys_differ() {
    assert!(new_key().unwrap() != new_key().unwrap());
}
