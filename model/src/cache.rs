//! Keys and values of the positions a decoder has seen, and where they lie: a sliding layer keeps no more than its window.
//! It never computes an attention, and never decides what is generated.

use crate::config::LayerKind;
use crate::ops::{AttentionRow, Ops};

/// Places kept free for coming positions when a cache is laid out: so often, and no oftener, all of it is copied.
const SPARE: usize = 64;

/// Keys (after norm and rotation) and values of a layer, `[rows * room, kv_heads * head_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct KvCache<T> {
    pub k: T,
    pub v: T,
}

impl<T: Clone> KvCache<T> {
    /// Those of several prompts, one below the other.
    pub fn stack<O: Ops<Tensor = T>>(ops: &O, prompts: &[Self]) -> Self {
        let of = |part: fn(&Self) -> &T| ops.stack_rows(&prompts.iter().map(part).collect::<Vec<_>>());
        Self { k: of(|prompt| &prompt.k), v: of(|prompt| &prompt.v) }
    }

    fn gather<O: Ops<Tensor = T>>(&self, ops: &O, index: &[u32]) -> Self {
        Self { k: ops.gather_rows(&self.k, index), v: ops.gather_rows(&self.v, index) }
    }

    /// Puts the newest position of each row where it belongs; in place, as nobody else holds this cache.
    pub fn write<O: Ops<Tensor = T>>(self, ops: &O, places: &[u32], k: &T, v: &T) -> Self {
        Self { k: ops.replace_rows(self.k, places, k), v: ops.replace_rows(self.v, places, v) }
    }
}

/// What all layers have seen of some rows.
pub(crate) struct Cache<T> {
    /// Positions of each row so far.
    pub lengths: Vec<usize>,
    sliding: Slots,
    global: Slots,
    kinds: Vec<LayerKind>,
    layers: Vec<KvCache<T>>,
}

impl<T: Clone> Cache<T> {
    /// An empty cache for prompts of these lengths, and layers of these kinds.
    pub fn new(lengths: &[usize], window: usize, kinds: &[LayerKind]) -> Self {
        Self {
            lengths: lengths.to_vec(),
            sliding: Slots::new(lengths, window - 1),
            global: Slots::new(lengths, usize::MAX),
            kinds: kinds.to_vec(),
            layers: Vec::with_capacity(kinds.len()),
        }
    }

    fn slots(&self, kind: LayerKind) -> &Slots {
        match kind {
            LayerKind::Sliding => &self.sliding,
            LayerKind::Global => &self.global,
        }
    }

    /// The next layer's keys and values of the whole prompts, packed; what later positions cannot see is left behind.
    pub fn push<O: Ops<Tensor = T>>(&mut self, ops: &O, prompt: &KvCache<T>) {
        let index = self.slots(self.kinds[self.layers.len()]).of_prompts(&self.lengths);
        self.layers.push(prompt.gather(ops, &index));
    }

    /// Keeps some of the rows, in their order.
    pub fn retain<O: Ops<Tensor = T>>(&mut self, ops: &O, rows: &[usize]) {
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        let [sliding, global] = [&mut self.sliding, &mut self.global].map(|slots| slots.lay_out(rows));
        self.gather(ops, &[(LayerKind::Sliding, sliding), (LayerKind::Global, global)]);
    }

    /// One more position at the end of every row, and room for its key and value.
    pub fn grow<O: Ops<Tensor = T>>(&mut self, ops: &O) {
        self.lengths.iter_mut().for_each(|length| *length += 1);
        let all: Vec<usize> = (0..self.lengths.len()).collect();
        let kinds = [(LayerKind::Sliding, &mut self.sliding), (LayerKind::Global, &mut self.global)];
        let full = kinds.into_iter().filter(|(_, slots)| slots.is_full());
        let moved: Vec<_> = full.map(|(kind, slots)| (kind, slots.lay_out(&all))).collect();
        self.gather(ops, &moved);
        self.sliding.push();
        self.global.push();
    }

    fn gather<O: Ops<Tensor = T>>(&mut self, ops: &O, moved: &[(LayerKind, Vec<u32>)]) {
        for (kind, index) in moved {
            for (layer, _) in self.layers.iter_mut().zip(&self.kinds).filter(|(_, own)| *own == kind) {
                *layer = layer.gather(ops, index);
            }
        }
    }

    /// What the newest position of each row sees in a layer of a kind: all that is kept.
    pub fn seen(&self, kind: LayerKind) -> Vec<AttentionRow> {
        self.slots(kind).seen()
    }

    /// Hands every layer's cache to `forward`, with the places of the newest positions; it comes back with them written.
    pub fn through(&mut self, mut forward: impl FnMut(KvCache<T>, &[u32]) -> KvCache<T>) {
        let [sliding, global] = [self.sliding.newest(), self.global.newest()];
        let places = |kind: &LayerKind| match kind {
            LayerKind::Sliding => &*sliding,
            LayerKind::Global => &*global,
        };
        // By value: what has one owner is written in place.
        let layers = std::mem::take(&mut self.layers).into_iter().zip(&self.kinds);
        self.layers = layers.map(|(layer, kind)| forward(layer, places(kind))).collect();
    }
}

/// Where the layers of a kind keep positions: `room` places for every row, its positions in their order from the first.
#[derive(Clone, Debug)]
struct Slots {
    /// Positions before the newest that it sees.
    reach: usize,
    room: usize,
    /// Places in use of each row.
    used: Vec<usize>,
}

impl Slots {
    fn new(lengths: &[usize], reach: usize) -> Self {
        let used: Vec<usize> = lengths.iter().map(|&length| length.min(reach)).collect();
        Self { reach, room: room(&used), used }
    }

    /// For each place the row of the packed prompts that goes there; a free place holds the last, which nobody sees.
    fn of_prompts(&self, lengths: &[usize]) -> Vec<u32> {
        let mut end = 0;
        let row = |(&length, &used): (&usize, &usize)| {
            end += length;
            run(end - used, used, self.room)
        };
        lengths.iter().zip(&self.used).flat_map(row).collect()
    }

    /// Keeps `rows` and of each what the next position sees, and makes room: for each new place, the old one.
    fn lay_out(&mut self, rows: &[usize]) -> Vec<u32> {
        let old: Vec<[usize; 2]> = rows.iter().map(|&row| [row * self.room + self.used[row], self.used[row]]).collect();
        self.used = old.iter().map(|[_, used]| *used.min(&self.reach)).collect();
        self.room = room(&self.used);
        old.iter().zip(&self.used).flat_map(|([end, _], &used)| run(end - used, used, self.room)).collect()
    }

    fn is_full(&self) -> bool {
        self.used.contains(&self.room)
    }

    fn push(&mut self) {
        self.used.iter_mut().for_each(|used| *used += 1);
    }

    fn newest(&self) -> Vec<u32> {
        self.used.iter().enumerate().map(|(row, used)| (row * self.room + used - 1) as u32).collect()
    }

    fn seen(&self) -> Vec<AttentionRow> {
        let row = |&used: &usize| {
            let first = (used - 1).saturating_sub(self.reach);
            AttentionRow { n_keys: self.room, seen: vec![[first as u32, used as u32]] }
        };
        self.used.iter().map(row).collect()
    }
}

fn room(used: &[usize]) -> usize {
    used.iter().max().map_or(0, |most| most + SPARE)
}

/// `used` rows from `first` on, the last of them (or the one before) again up to `room`.
fn run(first: usize, used: usize, room: usize) -> impl Iterator<Item = u32> {
    let last = (first + used).saturating_sub(1);
    (0..room).map(move |i| (first + i).min(last) as u32)
}

#[cfg(test)]
mod tests;
