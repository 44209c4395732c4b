use super::*;

#[test]
fn nccls_interface_is_matched_by_its_own_rules() {
    let names = ["lo", "eth0", "eth1", "ib0"].map(str::to_owned);
    for (asked, usable) in [
        ("eth", "eth0, eth1"),
        ("eth1,ib", "eth1, ib0"),
        ("=eth0", "eth0"),
        ("^lo,eth", "ib0"),
        ("^=eth0", "lo, eth1, ib0"),
        ("=eth", ""),
        ("enp5s", ""),
        ("^lo,eth,ib", ""),
    ] {
        let Finding { level, what, place, .. } = interface(asked, &names);
        assert_eq!(place.as_deref(), Some(NCCL));
        match usable {
            "" => assert!(level == crate::check::finding::Level::Warning && what.contains(asked), "{asked}: {what}"),
            _ => assert_eq!(what, format!("NCCL may use {usable}"), "{asked}"),
        }
    }
}
