use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Two ranks with a patience of 3 s, of which rank r takes `micro[r]` for a micro-batch, up to the beginning of `step`.
struct Run {
    watch: Watch,
    now: Instant,
}

impl Run {
    fn up_to(step: u64, micro: [Duration; 2]) -> Self {
        let begin = Instant::now();
        let mut run = Self { watch: Watch::new(0..2, 3 * SECOND, begin), now: begin };
        for rank in 0..2 {
            run.watch.on_phase(rank, 0, Phase::Rendezvous, begin);
        }
        for step in 1..step {
            for (rank, took) in (0..).zip(micro) {
                run.watch.on_phase(rank, step, Phase::Data, run.now);
                run.watch.on_phase(rank, step, Phase::ForwardBackward, run.now);
                run.watch.on_phase(rank, step, Phase::Data, run.now + took);
                run.watch.on_phase(rank, step, Phase::AllReduce, run.now + took);
            }
            run.now += micro[0].max(micro[1]);
            for rank in 0..2 {
                run.enter(rank, step, Phase::Optimizer);
                run.enter(rank, step, Phase::Comparison);
            }
        }
        run.enter(0, step, Phase::Data);
        run.enter(1, step, Phase::Data);
        run
    }

    fn enter(&mut self, rank: u32, step: u64, phase: Phase) {
        self.watch.on_phase(rank, step, phase, self.now);
    }

    /// Who is late after `seconds` of silence, looked at often; `stopped` is a rank that a signal has stopped.
    fn late_after(&mut self, seconds: u32, stopped: Option<u32>) -> Option<(u32, u64, Phase)> {
        let end = self.now + seconds * SECOND;
        while self.now < end {
            self.now += SECOND / 4;
            if let Some(late) = self.watch.late(self.now, |rank| Some(rank) == stopped) {
                return Some((late.rank, late.step, late.phase));
            }
        }
        None
    }
}

#[test]
fn the_late_rank_is_named_and_not_those_who_wait_for_it() {
    let mut run = Run::up_to(5, [SECOND / 10; 2]);
    run.enter(0, 5, Phase::ForwardBackward);
    run.enter(1, 5, Phase::AllReduce);
    assert_eq!(run.late_after(2, None), None);
    assert_eq!(run.late_after(2, None), Some((0, 5, Phase::ForwardBackward)));
}

#[test]
fn a_stopped_rank_is_late_wherever_it_stands() {
    let mut run = Run::up_to(5, [SECOND / 10; 2]);
    run.enter(0, 5, Phase::AllReduce);
    run.enter(1, 5, Phase::AllReduce);
    assert_eq!(run.late_after(100, None), None, "the collective itself has a deadline");
    assert_eq!(run.late_after(4, Some(1)), Some((1, 5, Phase::AllReduce)));
}

#[test]
fn deadlines_are_learned() {
    let mut run = Run::up_to(5, [SECOND; 2]);
    run.enter(0, 5, Phase::ForwardBackward);
    run.enter(1, 5, Phase::AllReduce);
    assert_eq!(run.late_after(7, None), None, "eight times the slowest");
    assert_eq!(run.late_after(2, None), Some((0, 5, Phase::ForwardBackward)));
}

#[test]
fn the_first_step_may_take_longer() {
    let mut run = Run::up_to(1, [SECOND; 2]);
    run.enter(0, 1, Phase::ForwardBackward);
    run.enter(1, 1, Phase::AllReduce);
    assert_eq!(run.late_after(29, None), None);
    assert_eq!(run.late_after(2, None), Some((0, 1, Phase::ForwardBackward)));
}

#[test]
fn who_stood_still_itself_blames_nobody() {
    let mut run = Run::up_to(5, [SECOND / 10; 2]);
    run.enter(0, 5, Phase::ForwardBackward);
    run.enter(1, 5, Phase::AllReduce);
    assert_eq!(run.late_after(1, None), None);
    run.now += 100 * SECOND;
    assert_eq!(run.late_after(2, None), None);
    assert_eq!(run.late_after(2, None), Some((0, 5, Phase::ForwardBackward)));
}

#[test]
fn a_slow_rank_is_named_once_and_equal_ranks_never() {
    let mut run = Run::up_to(20, [SECOND / 10, SECOND]);
    let slow = run.watch.slow().unwrap();
    assert_eq!((slow.rank, slow.own, slow.others), (1, SECOND, SECOND / 10));
    assert_eq!(run.watch.slow(), None);
    assert_eq!(Run::up_to(20, [SECOND / 10; 2]).watch.slow(), None);
    assert_eq!(Run::up_to(5, [SECOND / 10, SECOND]).watch.slow(), None, "too early to tell");
}

#[test]
fn the_boundary_is_foreseen() {
    let mut run = Run::up_to(1, [SECOND; 2]);
    assert_eq!(run.watch.until_boundary(run.now), None);
    run = Run::up_to(9, [SECOND; 2]);
    assert_eq!(run.watch.steps_made(), 8);
    assert_eq!(run.watch.until_boundary(run.now + SECOND / 4), Some(SECOND * 3 / 4));
}

/// An evaluation ends soon after it is asked to, so it does not count as a part of the step before or after it.
#[test]
fn an_evaluation_makes_no_step_longer() {
    let mut run = Run::up_to(5, [SECOND; 2]);
    let until_boundary = |run: &Run| run.watch.until_boundary(run.now).unwrap();
    assert_eq!(until_boundary(&run), SECOND);
    run.now += SECOND;
    for phase in [Phase::AllReduce, Phase::Optimizer, Phase::Comparison, Phase::Eval] {
        (0..2).for_each(|rank| run.enter(rank, 5, phase));
    }
    assert_eq!(run.watch.steps_made(), 5, "the step before an evaluation is made");
    run.now += 100 * SECOND;
    for (step, phase) in [(5, Phase::EvalSums), (6, Phase::Data)] {
        (0..2).for_each(|rank| run.enter(rank, step, phase));
    }
    assert_eq!(until_boundary(&run), SECOND);
}

#[test]
fn a_rank_that_stands_still_in_an_evaluation_is_late_and_one_that_waits_for_its_sums_is_not() {
    let mut run = Run::up_to(5, [SECOND / 10; 2]);
    (0..3).for_each(|_| run.enter(0, 5, Phase::Eval));
    run.enter(1, 5, Phase::EvalSums);
    assert_eq!(run.late_after(4, None), Some((0, 5, Phase::Eval)));
}
