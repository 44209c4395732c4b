use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{BLOCK, Fault, Objects, Settings};

/// A web server of one file, whose answers pass through `change`: the number of the request, its range, the answer's
/// status and body.
struct Server {
    url: String,
    ranges: Arc<Mutex<Vec<(u64, u64)>>>,
}

type Change = fn(usize, &mut u16, &mut Vec<u8>);

impl Server {
    fn start(file: Vec<u8>, change: Change) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let ranges: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let (noted, n, file) = (ranges.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(file));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (noted, n, file) = (noted.clone(), n.clone(), file.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(&connection);
                    let mut head = Vec::new();
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                        head.push(std::mem::take(&mut line));
                    }
                    let Some(first) = head.first() else { return };
                    let range = head.iter().find_map(|line| {
                        let (from, to) = line
                            .to_ascii_lowercase()
                            .strip_prefix("range: bytes=")?
                            .trim()
                            .split_once('-')
                            .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
                        Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
                    });
                    let (mut status, mut body, mut more) = (200, Vec::new(), String::new());
                    if let Some((from, to)) = range {
                        noted.lock().unwrap().push((from, to));
                        body = file[from as usize..=to as usize].to_vec();
                        (status, more) = (206, format!("content-range: bytes {from}-{to}/{}\r\n", file.len()));
                    }
                    let length = if first.starts_with("HEAD") { file.len() } else { body.len() };
                    if range.is_some() {
                        change(n.fetch_add(1, Ordering::Relaxed), &mut status, &mut body);
                    }
                    let length = if status == 206 || status == 200 { length } else { body.len() };
                    let head =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n");
                    let _ = (&connection).write_all(head.as_bytes()).and_then(|()| (&connection).write_all(&body));
                });
            }
        });
        Self { url, ranges }
    }
}

fn settings(cache: Option<&Path>, patience: u64) -> Settings {
    Settings {
        variables: BTreeMap::new(),
        patience: Duration::from_secs(patience),
        cache: cache.map(|folder| (folder.to_owned(), 64 << 20)),
        certificates: None,
    }
}

fn file(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

#[test]
fn ranges_are_the_files_bytes_and_are_asked_for_once() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), file(5 * BLOCK as usize / 2));
    let server = Server::start(bytes.clone(), |_, _, _| {});
    for process in 0..2 {
        let objects = Objects::new(settings(Some(dir.path()), 5)).unwrap();
        let object = objects.open(&server.url, true).unwrap();
        assert_eq!(object.size(), bytes.len() as u64);
        for (at, length) in [(0, 0), (7, 5), (BLOCK as usize - 3, 10), (0, bytes.len()), (bytes.len() - 1, 1)] {
            assert_eq!(object.read(at as u64, length).unwrap(), bytes[at..at + length], "{at}, {length}");
        }
        let asked = server.ranges.lock().unwrap().len();
        assert_eq!(asked, 3, "process {process}: every block once, the last two and a half of them in turn");
    }
    // What was found to be wrong is asked for again.
    let objects = Objects::new(settings(Some(dir.path()), 5)).unwrap();
    objects.open(&server.url, true).unwrap();
    objects.forget(&server.url);
    assert_eq!(objects.open(&server.url, true).unwrap().read(0, 9).unwrap(), bytes[..9]);
    assert_eq!(server.ranges.lock().unwrap().len(), 4);
}

#[test]
fn cut_and_refused_answers_are_asked_for_again() {
    let bytes = file(3000);
    let server = Server::start(bytes.clone(), |n, status, body| match n {
        0 => body.truncate(1000),
        1 => (*status, *body) = (503, b"<Error><Code>SlowDown</Code></Error>".to_vec()),
        2 => (*status, *body) = (500, Vec::new()),
        3 => body.clear(),
        _ => {}
    });
    let objects = Objects::new(settings(None, 20)).unwrap();
    assert_eq!(objects.open(&server.url, false).unwrap().read(10, 2000).unwrap(), bytes[10..2010]);
    assert_eq!(server.ranges.lock().unwrap().len(), 5);
}

#[test]
fn a_store_that_does_not_answer_is_given_up_in_time() {
    let server = Server::start(file(3000), |_, status, body| {
        (*status, *body) = (503, b"<Error><Code>SlowDown</Code><Key>hush</Key></Error>".to_vec());
    });
    let objects = Objects::new(settings(None, 1)).unwrap();
    let object = objects.open(&server.url, false).unwrap();
    let began = Instant::now();
    let refused = object.read(0, 10).unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused.fault, Fault::Unreachable { .. }), "{told}");
    assert!(told.contains("503") && told.contains("SlowDown") && told.contains(&server.url), "{told}");
    assert!(!told.contains("hush"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(30));
    let nobody = objects.size("http://127.0.0.1:1/file").unwrap_err();
    assert!(matches!(nobody.fault, Fault::Unreachable { .. }) && nobody.to_string().contains("refused"), "{nobody}");
}

#[test]
fn a_web_server_takes_no_files_and_a_missing_file_is_missing() {
    for url in ["http://host/prepared", "https://host/prepared"] {
        assert!(matches!(Objects::require_writable(url).unwrap_err().fault, Fault::ReadOnly));
    }
    Objects::require_writable("s3://bucket/prepared").unwrap();
}
