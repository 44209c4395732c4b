//! Where the time of a step goes, by parts of the model. It only looks at the clock: nothing it knows is used in a step.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A part of a training step. Time within a nested part counts for that one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// Patches, norms and frozen linears of the vision tower.
    Vision,
    /// Scores and sums of the tower's attention.
    VisionAttention,
    Projector,
    /// Embedding, norms and masks of the decoder.
    Text,
    /// Linears, norms and rotations around the decoder's attention.
    TextProjections,
    /// Scores and sums of the decoder's attention.
    TextAttention,
    TextMlp,
    /// Logits of supervised positions, cross-entropy and its gradient.
    Loss,
    /// Products of the adapters, forward and backward.
    Lora,
    /// Gradients of the adapters into the step's exact sums, and those over ranks.
    Sums,
    /// Norm, clip, AdamW and handing the adapters back to the model.
    Optimizer,
    /// Digest of adapters and moments.
    Digest,
}

const N_PARTS: usize = Part::Digest as usize + 1;

impl Part {
    /// Every part, in the order of a step.
    pub const ALL: [Part; N_PARTS] = [
        Part::Vision,
        Part::VisionAttention,
        Part::Projector,
        Part::Text,
        Part::TextProjections,
        Part::TextAttention,
        Part::TextMlp,
        Part::Loss,
        Part::Lora,
        Part::Sums,
        Part::Optimizer,
        Part::Digest,
    ];

    /// Its name in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Vision => "vision linears, norms",
            Part::VisionAttention => "vision attention",
            Part::Projector => "projector",
            Part::Text => "text embedding, norms",
            Part::TextProjections => "text q, k, v, o",
            Part::TextAttention => "text attention",
            Part::TextMlp => "text mlp",
            Part::Loss => "loss",
            Part::Lora => "adapters",
            Part::Sums => "sums",
            Part::Optimizer => "optimizer",
            Part::Digest => "digest",
        }
    }

    /// This part begins on this thread; it ends when what is returned is dropped.
    #[must_use]
    pub fn enter(self) -> Entered {
        CLOCK.with_borrow_mut(|clock| {
            clock.charge();
            clock.inside.push(self);
        });
        Entered
    }
}

/// From now on, where one part ends and the next begins on this thread, `waiter` waits until everything so far is computed:
/// without it a device that computes later gives its time to the part that waits for a result.
pub fn wait_with(waiter: Box<dyn Fn()>) {
    CLOCK.with_borrow_mut(|clock| clock.waiter = Some(waiter));
}

/// Ends a part when dropped.
#[derive(Debug)]
pub struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(|clock| {
            clock.charge();
            clock.inside.pop();
        });
    }
}

/// Time spent in each part on this thread since the last call, in the order of [`Part::ALL`].
#[must_use]
pub fn take() -> [Duration; N_PARTS] {
    CLOCK.with_borrow_mut(|clock| std::mem::take(&mut clock.spent))
}

struct Clock {
    inside: Vec<Part>,
    since: Instant,
    spent: [Duration; N_PARTS],
    waiter: Option<Box<dyn Fn()>>,
}

impl Clock {
    /// Gives the time since the last change to the innermost part.
    fn charge(&mut self) {
        self.waiter.iter().for_each(|wait| wait());
        let now = Instant::now();
        if let Some(&part) = self.inside.last() {
            self.spent[part as usize] += now - self.since;
        }
        self.since = now;
    }
}

thread_local! {
    static CLOCK: RefCell<Clock> =
        RefCell::new(Clock { inside: Vec::new(), since: Instant::now(), spent: [Duration::ZERO; N_PARTS], waiter: None });
}
