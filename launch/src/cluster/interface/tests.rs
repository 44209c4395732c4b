use super::*;

#[test]
fn endpoints_are_read() {
    for (text, host, port) in [
        ("gpu1:29400", "gpu1", 29400),
        ("gpu1", "gpu1", DEFAULT_PORT),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[fd00::1]:29500", "fd00::1", 29500),
        ("[fd00::1]", "fd00::1", DEFAULT_PORT),
        ("job-0.pods.default.svc.cluster.local:23456", "job-0.pods.default.svc.cluster.local", 23456),
    ] {
        assert_eq!(Endpoint::parse(text), Ok(Endpoint { host: host.to_owned(), port }), "{text}");
    }
    for text in
        ["", ":1", "gpu1:", "gpu1:port", "gpu1:99999", "fd00::1", "[fd00::1", "[fd00::1]x", "a b:1", "http://a:1"]
    {
        let told = Endpoint::parse(text).expect_err(text);
        assert!(told.contains("HOST:PORT"), "{told}");
    }
}

fn wish<'a>(interface: Option<&'a str>, endpoint: Option<&'a Endpoint>) -> Wish<'a> {
    Wish { interface, endpoint, all_here: false, others: &[] }
}

#[test]
fn node_0_listens_on_one_interface() {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    assert_eq!(choose(&wish(Some("lo"), None)).unwrap(), loopback);
    assert_eq!(choose(&Wish { all_here: true, ..wish(None, None) }).unwrap(), loopback);
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 29500 };
    assert_eq!(choose(&wish(None, Some(&endpoint))).unwrap(), "127.0.0.1:29500".parse().unwrap());
    // All interfaces are listened on only where that is asked for.
    assert_eq!(choose(&wish(Some("0.0.0.0"), Some(&endpoint))).unwrap(), "0.0.0.0:29500".parse().unwrap());
    assert!(!choose(&wish(None, None)).unwrap().ip().is_unspecified());
}

#[test]
fn an_interface_or_endpoint_of_another_machine_is_refused() {
    let told = choose(&wish(Some("no0"), None)).unwrap_err().to_string();
    assert!(told.contains("no0") && told.contains("lo (127.0.0.1)"), "{told}");
    let endpoint = Endpoint { host: ELSEWHERE.to_owned(), port: 29500 };
    let told = choose(&wish(None, Some(&endpoint))).unwrap_err().to_string();
    assert!(told.contains(ELSEWHERE) && told.contains("--rdzv-interface"), "{told}");
}
