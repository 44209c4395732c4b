use super::*;

fn check_hosts(list: &str, expected: Option<&[&str]>) {
    let expected = expected.map(|hosts| hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>());
    assert_eq!(expand(list), expected, "{list:?}");
}

#[test]
fn host_lists_are_expanded() {
    check_hosts("n1", Some(&["n1"]));
    check_hosts("n[1-2]", Some(&["n1", "n2"]));
    check_hosts("gpu[08-10,3]", Some(&["gpu08", "gpu09", "gpu10", "gpu3"]));
    check_hosts("login,gpu[1-2]-ib.cluster,x", Some(&["login", "gpu1-ib.cluster", "gpu2-ib.cluster", "x"]));
    check_hosts("r[1-2]n[1,3]", Some(&["r1n1", "r1n3", "r2n1", "r2n3"]));
    check_hosts("n[0-0]", Some(&["n0"]));
}

#[test]
fn what_is_no_host_list_is_refused() {
    for list in
        ["", ",", "n[1-2", "n1-2]", "n[2-1]", "n[a]", "n[]", "n[1-]", "n[[1]]", "a,,b", "n[1-2]]", "n[0-999999]"]
    {
        check_hosts(list, None);
    }
    check_hosts("n[0-9999]n[0-9999]", None);
    check_hosts(&format!("n[{}]", usize::MAX), Some(&[&format!("n{}", usize::MAX)]));
}

#[test]
fn tasks_of_each_node_are_counted() {
    let all = |list: &str| (0..5).map(|node| tasks_of(node, list)).collect::<Vec<_>>();
    assert_eq!(all("2(x3),1"), [Some(2), Some(2), Some(2), Some(1), None]);
    assert_eq!(all("8"), [Some(8), None, None, None, None]);
    assert_eq!(all("1,3(x2)"), [Some(1), Some(3), Some(3), None, None]);
    for wrong in ["", "x", "2(x", "2(x3", "2(3)"] {
        assert_eq!(tasks_of(0, wrong), None, "{wrong:?}");
    }
}

#[test]
fn other_hosts_of_the_step_are_named() {
    let variables = |name: &str| match name {
        "SLURM_STEP_NODELIST" => Some("n[1-3]".to_owned()),
        "SLURM_JOB_NODELIST" => Some("n[1-9]".to_owned()),
        "SLURMD_NODENAME" => Some("n2".to_owned()),
        _ => None,
    };
    assert_eq!(other_hosts(&variables), ["n1", "n3"]);
    assert!(other_hosts(&|_: &str| None).is_empty());
}
