//! Logits of the token after a prompt, and after each one that follows: every position goes through the decoder once.
//! It never chooses a token.

use crate::cache::Cache;
use crate::error::Error;
use crate::input::Input;
use crate::medgemma::{Checkpointing, MedGemma};
use crate::ops::{Ops, Place};

impl<O: Ops> MedGemma<O> {
    /// Logits after each prompt `[b, v]`, and what later positions need of them.
    ///
    /// # Errors
    /// As [`MedGemma::logits`].
    pub(crate) fn prompt_logits(&self, ops: &O, prompts: &Input) -> Result<(O::Tensor, Cache<O::Tensor>), Error> {
        let soft = self.soft_positions(prompts)?;
        let (mut x, _) = self.embed(ops, prompts, &soft, Place::Eval, Checkpointing::Block, &mut |_, _| {});
        let sights = self.sights(ops, prompts);
        let text = &self.config.text;
        let mut cache = Cache::new(prompts.lengths, text.sliding_window, &text.layers);
        for layer in &self.layers {
            let (y, saved) = layer.forward(ops, x, &sights, Place::Eval, None);
            cache.push(ops, &saved.into_cache());
            x = y;
        }
        let last: Vec<u32> = prompts.rows().map(|row| row.end as u32 - 1).collect();
        Ok((self.head(ops, &ops.gather_rows(&x, &last)), cache))
    }

    /// Logits after one more token of each row of the cache `[b, v]`. A soft token is text here, as in transformers.
    pub(crate) fn next_logits(&self, ops: &O, newest: &[u32], cache: &mut Cache<O::Tensor>) -> O::Tensor {
        cache.grow(ops);
        let positions: Vec<u32> = cache.lengths.iter().map(|&length| length as u32 - 1).collect();
        let sights = self.sights_at(ops, &positions, |kind| cache.seen(kind));
        let mut x = self.embed_text(ops, newest);
        let mut layers = self.layers.iter();
        cache.through(|cache, places| {
            let layer = layers.next().expect("a cache has as many layers as the model");
            let (y, saved) = layer.forward(ops, x.clone(), &sights, Place::Eval, Some((cache, places)));
            x = y;
            saved.into_cache()
        });
        self.head(ops, &x)
    }

    fn head(&self, ops: &O, x: &O::Tensor) -> O::Tensor {
        let hidden = ops.rms_norm(x, &self.norm_gain, self.config.text.rms_norm_eps);
        ops.matmul_nt(&hidden, &self.embedding)
    }
}
