use std::io::BufReader;

use model::engine::Backend;

use super::*;

#[test]
fn what_is_sent_is_received() {
    let mut pipe = Vec::new();
    let places = Places { model: "b".into(), train: vec!["r".into()], eval: Vec::new() };
    let second = std::time::Duration::from_secs(1);
    let job = Job {
        places,
        job_key: [7; 32],
        config: "run dir/config.toml".into(),
        from_scratch: true,
        backend: Some(Backend::Vulkan),
        attempt: 2,
        deadlines: Deadlines { rendezvous: second, operation: second / 4 },
        listen: [10, 0, 0, 1].into(),
        program: [9; 32],
        stores: None,
    };
    send(&mut pipe, &Order::Start(job)).unwrap();
    send(&mut pipe, &Order::Endpoint("127.0.0.1:29500".parse().unwrap())).unwrap();
    assert_eq!(pipe.iter().filter(|&&byte| byte == b'\n').count(), 2);

    let mut pipe = BufReader::new(pipe.as_slice());
    let Some(Order::Start(job)) = receive(&mut pipe).unwrap() else { panic!("the first order is lost") };
    assert_eq!(
        (job.job_key, job.config, job.from_scratch, job.backend, job.attempt, job.program),
        ([7; 32], "run dir/config.toml".into(), true, Some(Backend::Vulkan), 2, [9; 32])
    );
    assert_eq!(job.deadlines, Deadlines { rendezvous: second, operation: second / 4 });
    let Some(Order::Endpoint(endpoint)) = receive(&mut pipe).unwrap() else { panic!("the second order is lost") };
    assert_eq!(endpoint, "127.0.0.1:29500".parse().unwrap());
    assert!(receive::<Order>(&mut pipe).unwrap().is_none());
}

#[test]
fn what_is_no_message_is_refused() {
    for line in ["\n", "NCCL version 2.27\n", "{\"start\":{}}\n", "{\"failed\":{\"exit_code\":300,\"message\":\"\"}}\n"]
    {
        assert!(receive::<Order>(&mut BufReader::new(line.as_bytes())).is_err(), "{line}");
        assert!(receive::<Report>(&mut BufReader::new(line.as_bytes())).is_err(), "{line}");
    }
}

#[test]
fn last_words_keep_their_lines() {
    let mut pipe = Vec::new();
    send(&mut pipe, &Report::Failed { exit_code: 3, message: "error: a\n  caused by: b".to_owned(), may_pass: true })
        .unwrap();
    let Some(Report::Failed { exit_code, message, may_pass: true }) =
        receive(&mut BufReader::new(pipe.as_slice())).unwrap()
    else {
        panic!("the report is lost");
    };
    assert_eq!((exit_code, message.as_str()), (3, "error: a\n  caused by: b"));
}
