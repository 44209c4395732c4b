//! Large files into the hub's storage by git-lfs's protocol: where each goes, its bytes there, and a word when they are.
//! It never sends the token to a storage, and never holds more of a file than a connection does.

use serde_json::{Value, json};
use ureq::http::Method;

use super::super::http::{Payload, Refusal};
use super::super::listing::unusable;
use super::{LocalFile, Push, Result};
use crate::hub::Error;

pub(super) const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// Files asked about at once.
const BATCH: usize = 256;

impl Push<'_> {
    /// Every file is in the storage when this returns.
    pub(super) fn send_large(&self, files: &[&LocalFile]) -> Result<()> {
        for files in files.chunks(BATCH) {
            let objects = files.iter().map(|file| json!({"oid": file.sha256, "size": file.size}));
            let wanted = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "hash_algo": "sha256",
                "ref": {"name": self.id.revision},
                "objects": objects.collect::<Vec<_>>(),
            });
            let url = format!("{}/{}.git/info/lfs/objects/batch", self.hub.client.endpoint, self.id.name);
            let answer = self.ask(&url, MEDIA_TYPE, &wanted, "ask where large files go")?;
            for file in files {
                let object = answer["objects"].as_array().into_iter().flatten().find(|o| o["oid"] == *file.sha256);
                self.send_object(file, object.ok_or_else(|| unusable(self.id, "it leaves out a large file"))?)?;
            }
        }
        Ok(())
    }

    fn send_object(&self, file: &LocalFile, object: &Value) -> Result<()> {
        if let Some(error) = object.get("error") {
            return Err(Error::Refused {
                id: Box::new(self.id.clone()),
                action: "store a large file",
                status: error["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
                reason: error["message"].as_str().unwrap_or_default().chars().take(300).collect(),
            });
        }
        let upload = &object["actions"]["upload"];
        if upload.is_null() {
            // The storage has it, from another repository or an earlier try.
            (self.progress)(file.size as i64);
            return Ok(());
        }
        let href = |action: &Value| -> Result<String> {
            let href = action["href"].as_str().ok_or_else(|| unusable(self.id, "it does not say where a file goes"))?;
            Ok(href.to_owned())
        };
        let to = href(upload)?;
        match upload["header"]["chunk_size"].as_u64().or_else(|| upload["header"]["chunk_size"].as_str()?.parse().ok())
        {
            None => {
                let headers: Vec<(&str, &str)> = upload["header"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
                    .collect();
                self.put(file, &to, &headers, 0, file.size)?;
            }
            Some(chunk) => self.send_parts(file, &to, chunk, &upload["header"])?,
        }
        let verify = &object["actions"]["verify"];
        if !verify.is_null() {
            let known = json!({"oid": file.sha256, "size": file.size});
            let said = self.post(&href(verify)?, MEDIA_TYPE, known.to_string().as_bytes());
            said.map_err(|refusal| self.refused("confirm a large file", refusal))?;
        }
        Ok(())
    }

    /// Parts of `chunk` bytes, each to its own address in `header` (`"1"`, `"2"`, ...), then all of them to `complete`.
    fn send_parts(&self, file: &LocalFile, complete: &str, chunk: u64, header: &Value) -> Result<()> {
        let n = if chunk == 0 { 0 } else { file.size.div_ceil(chunk) };
        let addresses = (1..=n).map(|part| header[part.to_string()].as_str()).collect::<Option<Vec<_>>>();
        let addresses = addresses.filter(|_| n > 0 && header.get((n + 1).to_string()).is_none());
        let addresses = addresses.ok_or_else(|| unusable(self.id, "its parts do not make up the file"))?;
        let mut parts = Vec::with_capacity(addresses.len());
        for (number, to) in (1_u64..).zip(addresses) {
            let from = (number - 1) * chunk;
            let answer = self.put(file, to, &[], from, chunk.min(file.size - from))?;
            let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| unusable(self.id, "its storage does not name a part"))?;
            parts.push(json!({"partNumber": number, "etag": etag}));
        }
        let whole = json!({"oid": file.sha256, "parts": parts});
        let said = self.post(complete, MEDIA_TYPE, whole.to_string().as_bytes());
        said.map(|_| ()).map_err(|refusal| self.refused("put the parts of a file together", refusal))
    }

    fn put(&self, file: &LocalFile, to: &str, headers: &[(&str, &str)], from: u64, len: u64) -> Result<super::Answer> {
        let part = Payload::Part { path: &file.path, from, len };
        let sent = self.hub.client.send(&Method::PUT, to, headers, part, self.progress);
        sent.map_err(|refusal: Refusal| self.refused("store a large file", refusal))
    }
}
