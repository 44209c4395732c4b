//! A web server on loopback in front of a folder, or of moto's S3, with faults on demand.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is behind it.
#[derive(Clone)]
pub enum Behind {
    /// A folder of files, with ranges.
    Folder(PathBuf),
    /// Another server's address.
    Server(String),
}

/// What goes wrong with an answer.
#[derive(Clone, Copy)]
pub enum Wrong {
    /// Another status, and an error of S3's.
    Status(u16),
    /// The body ends in its middle.
    Cut,
    /// It takes so long.
    Late(Duration),
    /// One bit in the middle of the body is another.
    Flip,
    /// The connection ends without an answer.
    Gone,
}

#[derive(Default)]
struct State {
    /// What goes wrong with requests whose `METHOD path` holds a text, and how often.
    faults: Vec<(Wrong, &'static str, u32)>,
    /// `METHOD path`, and the bytes of the body.
    requests: Vec<(String, usize)>,
}

pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(behind: Behind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (state, behind) = (shared.clone(), behind.clone());
                thread::spawn(move || serve(connection, &state, &behind));
            }
        });
        Self { url, state }
    }

    pub fn fail(&self, wrong: Wrong, requests: &'static str, times: u32) {
        self.state.lock().unwrap().faults.push((wrong, requests, times));
    }

    pub fn work_again(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Requests whose `METHOD path` holds a text.
    pub fn count(&self, text: &str) -> usize {
        self.state.lock().unwrap().requests.iter().filter(|(what, _)| what.contains(text)).count()
    }
}

impl State {
    fn next_fault(&mut self, what: &str) -> Option<Wrong> {
        let fault = self.faults.iter_mut().find(|(_, part, times)| *times > 0 && what.contains(part))?;
        fault.2 -= 1;
        Some(fault.0)
    }
}

fn serve(client: TcpStream, state: &Mutex<State>, behind: &Behind) {
    let mut reader = BufReader::new(&client);
    let Some((head, body)) = request(&mut reader) else { return };
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let what = format!("{method} {path}");
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push((what.clone(), body.len()));
        state.next_fault(&what)
    };
    let (mut answered, mut content) = match behind {
        _ if matches!(fault, Some(Wrong::Status(_) | Wrong::Gone)) => (String::new(), Vec::new()),
        Behind::Folder(folder) => from_folder(folder, method, path, &head),
        Behind::Server(address) => from_server(address, &head, &body),
    };
    match fault {
        Some(Wrong::Gone) => return,
        Some(Wrong::Status(status)) => {
            content = b"<Error><Code>Injected</Code><AWSAccessKeyId>canary</AWSAccessKeyId></Error>".to_vec();
            answered = format!("HTTP/1.1 {status} Injected\r\ncontent-length: {}\r\n", content.len());
        }
        Some(Wrong::Cut) => content.truncate(content.len() / 2),
        Some(Wrong::Flip) if !content.is_empty() => {
            let middle = content.len() / 2;
            content[middle] ^= 4;
        }
        Some(Wrong::Late(time)) => thread::sleep(time),
        _ => {}
    }
    let _ = (&client).write_all(format!("{answered}connection: close\r\n\r\n").as_bytes());
    let _ = (&client).write_all(&content);
}

/// The lines of a request's head, and its body.
fn request(reader: &mut impl BufRead) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    (!head.is_empty()).then_some((head, body))
}

fn field<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let fields = head.iter().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn from_folder(folder: &Path, method: &str, path: &str, head: &[String]) -> (String, Vec<u8>) {
    let Ok(file) = fs::read(folder.join(path.trim_start_matches('/'))) else {
        return ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n".into(), Vec::new());
    };
    let range = field(head, "range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
    match (method, range) {
        ("HEAD", _) => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", file.len()), Vec::new()),
        (_, Some((from, to))) if to < file.len() => {
            let range = format!("content-range: bytes {from}-{to}/{}\r\n", file.len());
            (format!("HTTP/1.1 206 Partial\r\ncontent-length: {}\r\n{range}", to - from + 1), file[from..=to].into())
        }
        _ => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", file.len()), file),
    }
}

fn from_server(address: &str, head: &[String], body: &[u8]) -> (String, Vec<u8>) {
    let mut server = TcpStream::connect(address).unwrap();
    let kept = head.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
    server.write_all(body).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let content = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer).into_owned();
    let lines =
        head.split("\r\n").filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:"));
    (lines.map(|line| format!("{line}\r\n")).collect(), content)
}

/// moto's S3 of this test, with a bucket.
pub struct Moto {
    pub address: String,
    /// It ends when its stdin does, so with this test whatever becomes of that.
    _process: Child,
}

impl Moto {
    /// `None`, said aloud, where it is not on the PATH.
    pub fn start() -> Option<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let Some(bin) = std::env::split_paths(&paths).find(|dir| dir.join("moto_server").is_file()) else {
            eprintln!("skipped: S3 on loopback; there is no `moto_server` (PyPI: moto[s3,server]) on the PATH");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let script =
            format!("'{}' -H 127.0.0.1 -p {} & read end; kill $!", bin.join("moto_server").display(), free.port());
        let quiet = || Stdio::null();
        let process =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(quiet()).stderr(quiet()).spawn();
        let moto = Self { address: free.to_string(), _process: process.unwrap() };
        crate::faults::rig::wait_for("moto", || TcpStream::connect(free).is_ok());
        moto.ask("PUT", "/bucket", &[]);
        Some(moto)
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.ask("GET", path, &[])
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.ask("PUT", path, bytes);
    }

    /// Names of the objects under a prefix.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let listed = String::from_utf8(self.get(&format!("/bucket?list-type=2&prefix={prefix}"))).unwrap();
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap_or_default().to_owned());
        keys.collect()
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        const ANYBODY: &str =
            "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
        let head = [
            format!("{method} {path} HTTP/1.1"),
            format!("host: {}", self.address),
            format!("content-length: {}", body.len()),
            format!("authorization: {ANYBODY}"),
        ];
        let (answered, content) = from_server(&self.address, &head, body);
        assert!(answered.starts_with("HTTP/1.1 200"), "{method} {path}: {answered}");
        content
    }
}
