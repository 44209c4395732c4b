//! A hub on loopback: the list of files, redirects to a storage on another port, ranges, what is pushed (upload.rs), and
//! faults on demand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
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
pub const LARGE: usize = 20_000;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub storage: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    /// Its length was not said first.
    pub chunked: bool,
    pub body: Vec<u8>,
}

/// What goes wrong.
#[derive(Default)]
pub struct Faults {
    /// So many answers are 503.
    pub busy: u32,
    /// The first answer with this file ends after so many bytes.
    pub break_after: Option<(String, usize)>,
    /// Answers with this file end after so many bytes, but the connection stays.
    pub silent_after: Option<(String, usize)>,
    /// A bit of this file is another; of `list:FILE` only the hash that is listed.
    pub flip: Option<String>,
    /// Nobody may read.
    pub gated: bool,
    /// `main` is another commit.
    pub moved: bool,
    /// Requests whose `METHOD path` begins so get this status, so many times.
    pub refuse: Vec<(&'static str, &'static str, u32)>,
    /// The first upload's connection ends after so many bytes.
    pub drop_upload: Option<usize>,
    /// The next commit is made, and its answer lost.
    pub lose_commit: bool,
    /// Large files go to the storage in parts of so many bytes.
    pub parts: Option<usize>,
}

/// Files at a commit.
#[derive(Clone)]
pub(super) struct Repo {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

#[derive(Default)]
pub(super) struct State {
    /// Of `models/owner/name` or `datasets/owner/name`, and of `models/owner/name@branch`.
    pub repos: BTreeMap<String, Repo>,
    requests: Vec<Request>,
    pub faults: Faults,
    pub hub: String,
    pub storage: String,
    /// What was uploaded, by sha256, and parts of it by address.
    pub objects: BTreeMap<String, Vec<u8>>,
    pub parts: BTreeMap<String, Vec<u8>>,
}

pub struct FakeHub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (hub, storage) = (listen(&state, false), listen(&state, true));
        let mut known = state.lock().unwrap();
        (known.hub, known.storage) = (hub.clone(), storage);
        drop(known);
        Self { url: hub, state }
    }

    /// Serves the files of a folder and of its folders.
    pub fn serve(&self, repo: &str, folder: &Path) {
        let read = |path: &Path| {
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        };
        let files = super::files(folder).iter().map(|path| read(path)).collect();
        self.state.lock().unwrap().repos.insert(repo.into(), Repo { commit: COMMIT.into(), files });
    }

    /// Serves empty files of these names.
    pub fn serve_names(&self, repo: &str, names: &[&str]) {
        let files = names.iter().map(|&name| (name.to_owned(), Vec::new())).collect();
        self.state.lock().unwrap().repos.insert(repo.into(), Repo { commit: COMMIT.into(), files });
    }

    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().unwrap().faults);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Everything in a repository or a branch of it; none where there is no such.
    pub fn files(&self, repo: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.state.lock().unwrap().repos.get(repo).map(|repo| repo.files.clone())
    }

    /// The name of a file's blob.
    pub fn hash(&self, repo: &str, name: &str) -> String {
        let bytes = &self.state.lock().unwrap().repos[repo].files[name];
        if bytes.len() < LARGE { git_sha1(bytes) } else { sha256(bytes) }
    }
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

pub fn sha256(bytes: &[u8]) -> String {
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
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { storage, method: words.next()?, path: words.next()?, ..Request::default() };
    let mut length = 0;
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            "transfer-encoding" => request.chunked = true,
            _ => {}
        }
    }
    let cut = match request.method.as_str() {
        "PUT" => state.lock().unwrap().faults.drop_upload.take(),
        _ => None,
    };
    request.body = vec![0; cut.unwrap_or(length)];
    reader.read_exact(&mut request.body).ok()?;
    if cut.is_some() {
        return stream.shutdown(std::net::Shutdown::Both).ok();
    }
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let (status, headers, body) = state.respond(&request);
    let name = request.path.split('?').next()?.rsplit('/').next()?.to_owned();
    let broken = state.faults.break_after.take_if(|(file, _)| *file == name && body.len() >= LARGE);
    if request.path.contains("/commit/") && std::mem::take(&mut state.faults.lose_commit) {
        return stream.shutdown(std::net::Shutdown::Both).ok();
    }
    let silent = state.faults.silent_after.clone().filter(|(file, _)| *file == name && body.len() >= LARGE);
    drop(state);
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let cut = broken.or(silent.clone());
    let body = cut.map_or(body.as_slice(), |(_, n)| &body[..n]);
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).ok()?;
    stream.write_all(body).ok()?;
    if silent.is_some() {
        let _ = stream.read(&mut [0]); // Until the other side goes.
    }
    Some(())
}

pub(super) type Response = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

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
        let line = format!("{} {path}", request.method);
        if let Some((_, status, left)) = self.faults.refuse.iter_mut().find(|(at, _, n)| line.starts_with(at) && *n > 0)
        {
            *left -= 1;
            // Busy servers may say for how long; an echo of what came must not be shown.
            let echo = json!({"error": format!("refused: {:?}", request.authorization)}).to_string();
            return (*status, vec![("Retry-After", "0".to_owned())], echo.into_bytes());
        }
        if request.method != "GET" {
            return self.upload(request);
        }
        if let Some((repo, revision)) = path.strip_prefix("/api/").and_then(|rest| rest.split_once("/revision/")) {
            let branch = format!("{repo}@{revision}");
            let of_repo = self.repos.iter().filter(|(key, _)| *key == repo || key.starts_with(&format!("{repo}@")));
            let found = of_repo.clone().find(|(key, at)| {
                **key == branch || at.commit == revision || revision == COMMIT || (*key == repo && revision == "main")
            });
            return match found {
                Some((_, at)) => {
                    let wrong = self.faults.flip.as_deref().and_then(|name| name.strip_prefix("list:"));
                    ("200 OK", Vec::new(), list(at, self.faults.moved && revision == "main", wrong))
                }
                None => empty("404 Not Found"),
            };
        }
        let Some((repo, name)) = path.trim_start_matches("/cached").split_once(&format!("/resolve/{COMMIT}/")) else {
            return empty("404 Not Found");
        };
        let repo = repo.trim_start_matches('/');
        let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
        let Some(bytes) = self.repos.get(&repo).and_then(|repo| repo.files.get(name)) else {
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

fn list(repo: &Repo, moved: bool, wrong: Option<&str>) -> Vec<u8> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let mut file = json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes)});
        if bytes.len() >= LARGE {
            file["blobId"] = json!(git_sha1(b"the pointer"));
            let sha256 = if wrong == Some(name) { sha256(b"other bytes") } else { sha256(bytes) };
            file["lfs"] = json!({"sha256": sha256, "size": bytes.len(), "pointerSize": 134});
        }
        file
    };
    let siblings: Vec<_> = repo.files.iter().map(sibling).collect();
    json!({"sha": if moved { MOVED } else { &repo.commit }, "siblings": siblings}).to_string().into_bytes()
}
