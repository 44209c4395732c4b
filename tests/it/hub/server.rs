//! A hub on loopback: the list of files, redirects to a storage on another port, ranges, and faults on demand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "8b1d0c7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c";
const MOVED: &str = "0000000000000000000000000000000000000001";
/// Files of at least so many bytes lie in the storage, named by sha256.
const LARGE: usize = 20_000;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub storage: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What goes wrong.
#[derive(Default)]
pub struct Faults {
    /// So many answers are 503.
    pub busy: u32,
    /// The first answer with this file ends after so many bytes.
    pub break_after: Option<(String, usize)>,
    /// A bit of this file is another.
    pub flip: Option<String>,
    /// Nobody may read.
    pub gated: bool,
    /// `main` is another commit.
    pub moved: bool,
}

#[derive(Default)]
struct State {
    /// Files of `models/owner/name` or `datasets/owner/name`.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    requests: Vec<Request>,
    faults: Faults,
    storage: String,
}

pub struct FakeHub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (hub, storage) = (listen(&state, false), listen(&state, true));
        state.lock().unwrap().storage = storage;
        Self { url: hub, state }
    }

    /// Serves the files of a folder and of its folders.
    pub fn serve(&self, repo: &str, folder: &Path) {
        let read = |path: &Path| {
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        };
        let files = super::files(folder).iter().map(|path| read(path)).collect();
        self.state.lock().unwrap().repos.insert(repo.into(), files);
    }

    /// Serves empty files of these names.
    pub fn serve_names(&self, repo: &str, names: &[&str]) {
        let files = names.iter().map(|&name| (name.to_owned(), Vec::new())).collect();
        self.state.lock().unwrap().repos.insert(repo.into(), files);
    }

    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().unwrap().faults);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The name of a file's blob.
    pub fn hash(&self, repo: &str, name: &str) -> String {
        let bytes = &self.state.lock().unwrap().repos[repo][name];
        if bytes.len() < LARGE { git_sha1(bytes) } else { sha256(bytes) }
    }
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listen(state: &Arc<Mutex<State>>, storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || answer(stream, &state, storage));
        }
    });
    url
}

/// One request a connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: bool) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { storage, path, range: None, authorization: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let (status, headers, body) = state.respond(&request);
    let name = request.path.split('?').next()?.rsplit('/').next()?.to_owned();
    let broken = state.faults.break_after.take_if(|(file, _)| *file == name && body.len() >= LARGE);
    drop(state);
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let body = broken.map_or(body.as_slice(), |(_, n)| &body[..n]);
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).ok()?;
    stream.write_all(body).ok()
}

type Response = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

impl State {
    fn respond(&mut self, request: &Request) -> Response {
        let empty = |status| (status, Vec::new(), Vec::new());
        if self.faults.busy > 0 {
            self.faults.busy -= 1;
            return empty("503 Busy");
        }
        if self.faults.gated && !request.storage {
            return empty("401 Unauthorized");
        }
        let path = request.path.split('?').next().unwrap_or_default();
        if let Some((repo, revision)) = path.strip_prefix("/api/").and_then(|rest| rest.split_once("/revision/")) {
            return match self.repos.get(repo).filter(|_| ["main", COMMIT].contains(&revision)) {
                Some(files) => ("200 OK", Vec::new(), list(files, self.faults.moved && revision == "main")),
                None => empty("404 Not Found"),
            };
        }
        let Some((repo, name)) = path.trim_start_matches("/cached").split_once(&format!("/resolve/{COMMIT}/")) else {
            return empty("404 Not Found");
        };
        let repo = repo.trim_start_matches('/');
        let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
        let Some(bytes) = self.repos.get(&repo).and_then(|files| files.get(name)) else {
            return empty("404 Not Found");
        };
        match (request.storage, bytes.len() >= LARGE) {
            // Another host with a signed address for large files, another path of the same host for small ones.
            (false, true) => {
                let to = format!("{}{path}?signature=0123abcd", self.storage);
                ("302 Found", vec![("Location", to)], Vec::new())
            }
            (false, false) if !path.starts_with("/cached") => {
                ("307 Temporary Redirect", vec![("Location", format!("/cached{path}"))], Vec::new())
            }
            _ => self.part(name, bytes, request.range.as_deref()),
        }
    }

    fn part(&self, name: &str, bytes: &[u8], range: Option<&str>) -> Response {
        let mut bytes = bytes.to_vec();
        if self.faults.flip.as_deref() == Some(name) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        }
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            Some(from) if from < bytes.len() => {
                let header = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                ("206 Partial Content", vec![("Content-Range", header)], bytes.split_off(from))
            }
            Some(_) => ("416 Range Not Satisfiable", Vec::new(), Vec::new()),
            None => ("200 OK", Vec::new(), bytes),
        }
    }
}

fn list(files: &BTreeMap<String, Vec<u8>>, moved: bool) -> Vec<u8> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let mut file = json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes)});
        if bytes.len() >= LARGE {
            file["blobId"] = json!(git_sha1(b"the pointer"));
            file["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
        }
        file
    };
    let siblings: Vec<_> = files.iter().map(sibling).collect();
    json!({"sha": if moved { MOVED } else { COMMIT }, "siblings": siblings}).to_string().into_bytes()
}
