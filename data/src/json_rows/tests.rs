use super::*;
use crate::{Dataset, Disk, Sources, fixtures};

fn open(text: &str) -> Result<(tempfile::TempDir, JsonRows)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.json");
    storage::publish_file(&path, text.as_bytes()).unwrap();
    storage::publish_file(&dir.path().join("a.png"), b"page").unwrap();
    let rows = JsonRows::open(&Disk, path, None)?;
    Ok((dir, rows))
}

const ROW: &str = r#"{"id":"x","image":"a.png","conversations":[{"from":"human","value":"<image>\n\"{[?"},{"from":"gpt","value":"}]\\"}]}"#;

#[test]
fn rows_are_found_in_a_list_or_one_a_line_whatever_their_texts_hold() {
    for text in [
        format!("[{ROW},{ROW}]"),
        format!("\u{feff} [\n {ROW} ,\n\t{ROW}\r\n]\n"),
        format!("{ROW}\n{ROW}\n"),
        format!("{ROW}\n\n{ROW}"),
    ] {
        let (_dir, rows) = open(&text).unwrap();
        assert_eq!(rows.n_rows(), 2, "{text}");
        let row = rows.row(1).unwrap();
        assert_eq!((row.id.as_str(), row.image_path.as_deref(), &row.image[..]), ("x", Some("a.png"), &b"page"[..]));
        assert_eq!((row.turns[0].text.as_str(), row.turns[1].text.as_str()), ("<image>\n\"{[?", "}]\\"));
        assert_eq!(rows.pages().unwrap()[0], path_key("./a.png"));
    }
}

#[test]
fn what_is_no_list_of_rows_is_refused_with_its_place() {
    for (text, said) in [
        ("<html>", "byte 0"),
        ("[1]", "byte 1"),
        ("{\"a\":{", "ends inside row 0"),
        ("[{}", "ends inside its list"),
        ("[{}] x", "behind the end"),
        ("[{},\"x\"]", "byte 4"),
    ] {
        let refused = open(text).err().unwrap().to_string();
        assert!(refused.contains("rows.json") && refused.contains(said), "{text}: {refused}");
    }
    assert_eq!(open("[]").unwrap().1.n_rows(), 0);
}

#[test]
fn a_row_that_breaks_the_rules_is_a_fault_of_that_row() {
    let talk = r#""conversations":[{"from":"human","value":"?"},{"from":"gpt","value":"!"}]"#;
    for (row, said) in [
        ("{\"id\":\"x\" oops}".to_owned(), "not JSON"),
        (format!(r#"{{"id":"x",{talk}}}"#), "the row names none"),
        (format!(r#"{{"id":"x","image":["a.png","b.png"],{talk}}}"#), "2 images"),
        (format!(r#"{{"id":"x","image":"absent.png",{talk}}}"#), "leads to no file"),
        (format!(r#"{{"id":"x","image":"../a.png",{talk}}}"#), "leaves the data set's folder"),
        (format!(r#"{{"id":"x","image":"/etc/passwd",{talk}}}"#), "leaves the data set's folder"),
        (r#"{"id":"x","image":"a.png","conversations":7}"#.to_owned(), "known layout"),
    ] {
        let (_dir, rows) = open(&format!("[{ROW},{row}]")).unwrap();
        let refused = rows.row(1).unwrap_err().to_string();
        assert!(refused.contains("row 1") && refused.contains(said), "{row}: {refused}");
        assert!(rows.row(0).is_ok());
    }
}

#[test]
fn pages_in_archives_are_refused_with_the_command_that_prepares_them() {
    let Some(folder) = fixtures::mini("json_tar") else { return };
    for source in [folder.clone(), folder.join("ECGInstruct.json")] {
        let sources =
            Sources { files: vec![source], image_folder: None, include: String::new(), keep_image_marker: false };
        let refused = Dataset::open(&sources).unwrap_err().to_string();
        assert!(refused.contains("2 archives") && refused.contains("ecg-train prepare --source"), "{refused}");
    }
}
