//! Logits of the token after a prompt, and after each one that follows: every position goes through the decoder once.
//! It never chooses a token.

use crate::attention::Sights;
use crate::cache::{Cache, KvCache};
use crate::error::Error;
use crate::input::Input;
use crate::medgemma::MedGemma;
use crate::ops::{Ops, Place};

impl<O: Ops> MedGemma<O> {
    /// Logits after each prompt `[b, v]`, and what later positions need of them. Pages and prompts go through the model one
    /// by one, as there is enough to do for each: so the bits of none depend on what else is in the batch.
    ///
    /// # Errors
    /// As [`MedGemma::logits`].
    pub(crate) fn prompt_logits(&self, ops: &O, prompts: &Input) -> Result<(O::Tensor, Cache<O::Tensor>), Error> {
        self.soft_positions(prompts)?;
        let pages = prompts.pages.chunks(3 * self.config.vision.image_size.pow(2));
        let seen: Vec<O::Tensor> = pages.map(|page| self.soft_tokens(ops, page)).collect();
        let mut shown = prompts.shown.iter().map(|&page| &seen[page as usize]);
        let rows: Vec<Input> =
            prompts.rows().zip(prompts.lengths.chunks(1)).map(|(row, lengths)| prompts.text(row, lengths)).collect();
        let mut xs = rows.iter().map(|row| self.prompt(ops, row, &mut shown)).collect::<Result<Vec<_>, _>>()?;
        let sights: Vec<Sights<O>> = rows.iter().map(|row| self.sights(ops, row, None)).collect();
        let text = &self.config.text;
        let mut cache = Cache::new(prompts.lengths, text.sliding_window, &text.layers);
        for layer in &self.layers {
            let mut caches = Vec::with_capacity(xs.len());
            for (x, sights) in xs.iter_mut().zip(&sights) {
                let (y, saved) = layer.forward(ops, x.clone(), sights.of(layer.kind), Place::Eval, None);
                *x = y;
                caches.push(saved.into_cache());
            }
            cache.push(ops, &KvCache::stack(ops, &caches));
        }
        let last = xs.iter().zip(prompts.lengths).map(|(x, &length)| ops.gather_rows(x, &[length as u32 - 1]));
        let last: Vec<O::Tensor> = last.collect();
        Ok((self.head(ops, &ops.stack_rows(&last.iter().collect::<Vec<_>>())), cache))
    }

    /// Token rows of one prompt `[t, d]`, in which the next of `shown` stand where its pages are.
    fn prompt<'a>(
        &self,
        ops: &O,
        row: &Input,
        shown: &mut impl Iterator<Item = &'a O::Tensor>,
    ) -> Result<O::Tensor, Error>
    where
        O::Tensor: 'a,
    {
        let is_soft = |&(_, &id): &(usize, &u32)| id == self.config.image_token_index;
        let soft: Vec<u32> = row.input_ids.iter().enumerate().filter(is_soft).map(|(i, _)| i as u32).collect();
        let per_page = self.config.mm_tokens_per_image;
        if !soft.len().is_multiple_of(per_page) {
            return Err(Error::SoftTokens { n_soft: soft.len(), n_pages: soft.len() / per_page, per_page });
        }
        let x = self.embed_text(ops, row.input_ids);
        let pages: Vec<&O::Tensor> = shown.take(soft.len() / per_page).collect();
        Ok(if pages.is_empty() { x } else { ops.replace_rows(x, &soft, &ops.stack_rows(&pages)) })
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
            let sight = sights.of(layer.kind);
            let (y, saved) = layer.forward(ops, x.clone(), sight, Place::Eval, Some((cache, places)));
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
