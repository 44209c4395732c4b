//! Every adapter trains: from the first step each B, and as soon as B has moved each A, has a non-zero gradient.
//! Stacks of 2025 silently left all adapters of the vision tower at their start; here the run stops and names them.

use lora::Layout;

use crate::error::Error;

/// Watches the first steps of a run until every adapter is known to train.
#[derive(Debug)]
pub struct Audit {
    passed: bool,
}

impl Audit {
    /// An audit that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { passed: false }
    }

    /// Looks at the gradients of one step, taken at `params`. The gradient of A is zero as long as B is, so A is asked
    /// for only where B has moved. A step without any page says nothing about the tower.
    ///
    /// # Errors
    /// The modules whose gradient is zero or not finite.
    pub fn check(
        &mut self,
        step: u64,
        layout: &Layout,
        params: &[f32],
        grads: &[f32],
        pages: bool,
    ) -> Result<(), Error> {
        if self.passed {
            return Ok(());
        }
        let alive = |values: &[f32]| values.iter().any(|&v| v != 0.0) && values.iter().all(|v| v.is_finite());
        let mut dead = Vec::new();
        let mut complete = pages;
        for (i, module) in layout.modules().iter().enumerate() {
            if !pages && module.name.starts_with("vision_tower") {
                continue;
            }
            let b_moved = params[layout.b(i)].iter().any(|&v| v != 0.0);
            complete &= b_moved;
            if !alive(&grads[layout.b(i)]) {
                dead.push(format!("{}.lora_B", module.name));
            }
            if b_moved && !alive(&grads[layout.a(i)]) {
                dead.push(format!("{}.lora_A", module.name));
            }
        }
        self.passed = complete && dead.is_empty();
        if dead.is_empty() { Ok(()) } else { Err(Error::DeadAdapters { step, modules: dead }) }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
