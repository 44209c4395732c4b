//! The part of the hub on loopback that takes files: repositories and branches, git-lfs's batch with `basic` and
//! `multipart`, and commits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::server::{COMMIT, LARGE, Repo, Request, Response, State, git_sha1, sha256};

fn ok(body: &Value) -> Response {
    ("200 OK", Vec::new(), body.to_string().into_bytes())
}

fn refuse(status: &'static str, why: &str) -> Response {
    (status, Vec::new(), json!({"error": why}).to_string().into_bytes())
}

impl State {
    /// Answers a request that brings something.
    pub fn upload(&mut self, request: &Request) -> Response {
        let path = request.path.split('?').next().unwrap_or_default();
        if request.storage {
            return self.store(request, path);
        }
        if request.authorization.is_none() && !path.starts_with("/complete/") {
            return refuse("401 Unauthorized", "no token");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if path == "/api/repos/create" {
            return self.create(&body);
        }
        if path == "/api/validate-yaml" {
            return ok(&json!({"errors": [], "warnings": []}));
        }
        if let Some(oid) = path.strip_prefix("/complete/") {
            return self.complete(oid, &body);
        }
        if path == "/verify" {
            let oid = body["oid"].as_str().unwrap_or_default();
            return match self.objects.get(oid).is_some_and(|bytes| body["size"] == bytes.len()) {
                true => ok(&json!({})),
                false => refuse("404 Not Found", "no such object"),
            };
        }
        if path.ends_with(".git/info/lfs/objects/batch") {
            return self.batch(&body);
        }
        let parts: Vec<&str> = path.trim_start_matches("/api/").splitn(5, '/').collect();
        let [kind, owner, name, what, revision] = parts[..] else { return refuse("404 Not Found", "no such path") };
        let repo = format!("{kind}/{owner}/{name}");
        let at = if revision == "main" { repo.clone() } else { format!("{repo}@{revision}") };
        match (what, self.repos.get(&repo).cloned()) {
            (_, None) => refuse("404 Not Found", "no such repository"),
            ("branch", Some(main)) => {
                self.repos.insert(at, main);
                ok(&json!({}))
            }
            ("preupload", Some(_)) => self.preupload(&at, &body),
            ("commit", Some(_)) => self.commit(&at, &request.body),
            _ => refuse("404 Not Found", "no such path"),
        }
    }

    fn create(&mut self, body: &Value) -> Response {
        let [owner, name] = ["organization", "name"].map(|key| body[key].as_str().unwrap_or_default());
        let repo = format!("models/{owner}/{name}");
        if self.repos.contains_key(&repo) {
            return refuse("409 Conflict", "You already created this model repo");
        }
        let files = [(".gitattributes".to_owned(), b"*.safetensors filter=lfs\n".to_vec())].into();
        self.repos.insert(repo, Repo { commit: COMMIT.into(), files });
        ok(&json!({"url": format!("{}/{owner}/{name}", self.hub), "name": format!("{owner}/{name}")}))
    }

    fn preupload(&self, at: &str, body: &Value) -> Response {
        let known = &self.repos[at].files;
        let mode = |file: &Value| {
            let sample = BASE64.decode(file["sample"].as_str().unwrap()).unwrap();
            assert!(sample.len() <= 512 && sample.len() as u64 <= file["size"].as_u64().unwrap());
            let mode = if file["size"].as_u64() >= Some(LARGE as u64) { "lfs" } else { "regular" };
            let oid = known.get(file["path"].as_str().unwrap()).map(|bytes| git_sha1(bytes));
            json!({"path": file["path"], "uploadMode": mode, "shouldIgnore": false, "oid": oid})
        };
        ok(&json!({"files": body["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}))
    }

    fn batch(&self, body: &Value) -> Response {
        assert_eq!((&body["operation"], &body["hash_algo"]), (&json!("upload"), &json!("sha256")));
        let object = |wanted: &Value| {
            let (oid, size) = (wanted["oid"].as_str().unwrap(), wanted["size"].as_u64().unwrap() as usize);
            let mut object = json!({"oid": oid, "size": size});
            if self.objects.contains_key(oid) {
                return object;
            }
            let verify = json!({"href": format!("{}/verify", self.hub)});
            let upload = match self.faults.parts.filter(|&chunk| chunk < size) {
                None => json!({"href": format!("{}/object/{oid}?signature=0123abcd", self.storage)}),
                Some(chunk) => {
                    let mut header = json!({"chunk_size": chunk.to_string()});
                    for n in 1..=size.div_ceil(chunk) {
                        header[n.to_string()] = json!(format!("{}/part/{oid}/{n}?signature=0123abcd", self.storage));
                    }
                    json!({"href": format!("{}/complete/{oid}?signature=0123abcd", self.hub), "header": header})
                }
            };
            object["actions"] = json!({"upload": upload, "verify": verify});
            object
        };
        let objects: Vec<Value> = body["objects"].as_array().unwrap().iter().map(object).collect();
        ok(&json!({"transfer": "basic", "objects": objects}))
    }

    /// A storage knows signed addresses, and takes no token and no body of unknown length.
    fn store(&mut self, request: &Request, path: &str) -> Response {
        if request.authorization.is_some() || request.chunked || !request.path.contains("signature=") {
            return refuse("400 Bad Request", "not as signed");
        }
        match path.strip_prefix("/object/") {
            Some(oid) if sha256(&request.body) == oid => {
                self.objects.insert(oid.to_owned(), request.body.clone());
                ok(&json!({}))
            }
            Some(_) => refuse("400 Bad Request", "other bytes than announced"),
            None => {
                self.parts.insert(path.to_owned(), request.body.clone());
                ("200 OK", vec![("ETag", format!("\"{}\"", sha256(&request.body)))], Vec::new())
            }
        }
    }

    fn complete(&mut self, oid: &str, body: &Value) -> Response {
        let mut whole = Vec::new();
        for (n, part) in (1..).zip(body["parts"].as_array().into_iter().flatten()) {
            let Some(bytes) = self.parts.get(&format!("/part/{oid}/{n}")) else { break };
            if part["partNumber"] == n && part["etag"] == format!("\"{}\"", sha256(bytes)) {
                whole.extend_from_slice(bytes);
            }
        }
        if body["oid"] != oid || sha256(&whole) != oid {
            return refuse("400 Bad Request", "the parts do not make up the object");
        }
        self.objects.insert(oid.to_owned(), whole);
        ok(&json!({}))
    }

    fn commit(&mut self, at: &str, body: &[u8]) -> Response {
        let lines: Vec<Value> =
            String::from_utf8_lossy(body).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let Repo { commit, mut files } = self.repos[at].clone();
        let parent = &lines[0]["value"]["parentCommit"];
        if parent.is_string() && *parent != commit {
            return refuse("412 Precondition Failed", "the branch has moved");
        }
        for line in &lines[1..] {
            let value = &line["value"];
            let bytes = match line["key"].as_str() {
                Some("file") => BASE64.decode(value["content"].as_str().unwrap()).unwrap(),
                Some("lfsFile") => match self.objects.get(value["oid"].as_str().unwrap()) {
                    Some(bytes) => bytes.clone(),
                    None => return refuse("400 Bad Request", "an object is not in the storage"),
                },
                _ => return refuse("400 Bad Request", "an operation that is none"),
            };
            files.insert(value["path"].as_str().unwrap().to_owned(), bytes);
        }
        let commit = git_sha1(&[commit.as_bytes(), body].concat());
        self.repos.insert(at.to_owned(), Repo { commit: commit.clone(), files });
        let name = at.trim_start_matches("models/").split('@').next().unwrap_or_default();
        let url = format!("{}/{name}/commit/{commit}", self.hub);
        ok(&json!({"success": true, "commitOid": commit, "commitUrl": url}))
    }
}
