use super::{Address, ObjectStoreScheme};
use crate::objects::Fault;

#[track_caller]
fn check(url: &str, root: &str, path: &str, scheme: ObjectStoreScheme) {
    let address = Address::parse(url).unwrap();
    assert_eq!((address.root.as_str(), address.path.as_ref(), &address.scheme), (root, path, &scheme));
    assert_eq!(address.url, url);
}

#[test]
fn addresses_name_a_store_and_an_object() {
    check("s3://bucket/a/b.parquet", "s3://bucket", "a/b.parquet", ObjectStoreScheme::AmazonS3);
    check("s3://bucket/prepared/", "s3://bucket", "prepared", ObjectStoreScheme::AmazonS3);
    check("s3://bucket", "s3://bucket", "", ObjectStoreScheme::AmazonS3);
    check("gs://bucket/a", "gs://bucket", "a", ObjectStoreScheme::GoogleCloudStorage);
    check("az://container/a", "az://container", "a", ObjectStoreScheme::MicrosoftAzure);
    check(
        "http://127.0.0.1:80801/a".replace("80801", "8080").as_str(),
        "http://127.0.0.1:8080/",
        "a",
        ObjectStoreScheme::Http,
    );
    check("https://host/a/b", "https://host/", "a/b", ObjectStoreScheme::Http);
    let s3 = "https://bucket.s3.eu-west-1.amazonaws.com/a";
    check(s3, s3, "a", ObjectStoreScheme::AmazonS3);
}

#[test]
fn addresses_with_secrets_or_of_nothing_known_are_refused_without_repeating_a_secret() {
    let secrets =
        ["s3://key:hush@bucket/a", "https://hush@host/a", "https://host/a?sig=hush", "s3://b/a?X-Amz-Signature=hush"];
    for url in secrets.iter().chain(&["file:///a", "memory:///a", "ftp://host/a", "s3://", "nothing"]) {
        let refused = Address::parse(url).unwrap_err();
        assert!(matches!(refused.fault, Fault::Address(_)), "{refused}");
        assert!(!refused.to_string().contains("hush"), "{refused}");
    }
}
