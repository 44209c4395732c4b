//! Addresses of object stores, as configs write them: `s3://bucket/folder`, `gs://`, `az://`, `http(s)://`.
//! It never looks at the network, and takes no address with a secret in it.

/// What stands before `://`.
const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https"];

/// Whether a text is the address of something in an object store or on a web server.
#[must_use]
pub fn is_address(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn stores_are_told_from_paths_and_hub_ids() {
        for text in ["s3://bucket/prepared", "gs://b/p", "az://c/p", "https://host/p", "http://127.0.0.1:8000/p"] {
            assert!(is_address(text), "{text}");
        }
        for text in ["prepared", "/data/s3:/x", "PULSE-ECG/ECGInstruct", "hf://datasets/a/b", "ftp://host/p", "s3://"] {
            assert!(!is_address(text), "{text}");
        }
    }
}
