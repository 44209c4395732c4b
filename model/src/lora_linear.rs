//! A frozen linear layer with a LoRA adapter beside it (`lora.Linear` in PEFT). It never changes its own weight.

use crate::ops::{Dropout, Ops, Place};
use crate::parts::Part;
use crate::sums::Sums;

/// `y = x w^T + bias + scaling * dropout(x) a^T b^T`.
#[derive(Debug)]
pub struct LoraLinear<T> {
    /// `[out, in]`, frozen.
    pub w: T,
    /// `[1, out]`, frozen.
    pub bias: Option<T>,
    /// Which module of the adapter's layout this is.
    pub module: usize,
    pub adapter: Option<Adapter<T>>,
}

/// The trained pair of one module.
#[derive(Debug)]
pub struct Adapter<T> {
    /// `[r, in]`.
    pub lora_a: T,
    /// `[out, r]`.
    pub lora_b: T,
    /// Where the gradients of A and B lie in the flat buffer.
    pub ranges: [std::ops::Range<usize>; 2],
    /// `alpha / r`.
    pub scaling: f32,
    /// Drop probability of the input of A.
    pub dropout: f64,
}

/// Kept for backward by linears of one input: the input `[t, in]`, and what each A makes of it, `[t, r]`.
#[derive(Debug)]
pub struct LinearSaved<T> {
    pub x: T,
    /// `dropout(x) a^T` of each group of adapters, `[t, sum of r]`.
    h_tr: Vec<T>,
}

impl<T: Clone> LoraLinear<T> {
    /// `x [t, in] -> y [t, out]`.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: T, at: Place) -> (T, LinearSaved<T>) {
        let saved = self.again(ops, x, at);
        (self.output(ops, &saved, at), saved)
    }

    /// What [`LoraLinear::forward`] keeps, without its output.
    pub fn again<O: Ops<Tensor = T>>(&self, ops: &O, x: T, at: Place) -> LinearSaved<T> {
        inputs(ops, [self], x, at)
    }

    /// The output to what is kept.
    pub fn output<O: Ops<Tensor = T>>(&self, ops: &O, saved: &LinearSaved<T>, at: Place) -> T {
        let [y] = outputs(ops, [self], saved, at);
        y
    }

    /// `dy [t, out] -> dx [t, in]`; the gradients of A and B are added to `grads`.
    pub fn backward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        dy: &T,
        saved: &LinearSaved<T>,
        at: Place,
        grads: &mut Sums<O::DeviceSums>,
    ) -> T {
        backward_all(ops, [self], [dy], saved, at, grads)
    }

    /// The mask of the input of A; `None` where nothing is dropped.
    fn mask(&self, at: Place) -> Option<Dropout> {
        let p = self.adapter.as_ref().map_or(0.0, |adapter| adapter.dropout);
        at.mask_key(self.module).filter(|_| p > 0.0).map(|key| Dropout::new(key, p))
    }
}

/// Linears of one input, `x [t, in] -> y [t, out]` of each: their adapters read it once.
pub fn forward_all<const N: usize, O: Ops>(
    ops: &O,
    linears: [&LoraLinear<O::Tensor>; N],
    x: O::Tensor,
    at: Place,
) -> ([O::Tensor; N], LinearSaved<O::Tensor>) {
    let saved = inputs(ops, linears, x, at);
    (outputs(ops, linears, &saved, at), saved)
}

fn inputs<const N: usize, O: Ops>(
    ops: &O,
    linears: [&LoraLinear<O::Tensor>; N],
    x: O::Tensor,
    at: Place,
) -> LinearSaved<O::Tensor> {
    let _part = Part::Lora.enter();
    let h_tr = groups(linears, at).iter().map(|group| ops.matmul_nt(&group.input(ops, &x), &group.a(ops))).collect();
    LinearSaved { x, h_tr }
}

fn outputs<const N: usize, O: Ops>(
    ops: &O,
    linears: [&LoraLinear<O::Tensor>; N],
    saved: &LinearSaved<O::Tensor>,
    at: Place,
) -> [O::Tensor; N] {
    let mut adapters = [const { None }; N];
    for (group, h_tr) in groups(linears, at).iter().zip(&saved.h_tr) {
        for (i, adapter, h_tr) in group.parts(ops, h_tr) {
            adapters[i] = Some((h_tr, &adapter.lora_b, adapter.scaling));
        }
    }
    std::array::from_fn(|i| {
        let adapter = adapters[i].as_ref().map(|(h_tr, b, scaling)| (h_tr, *b, *scaling));
        ops.linear(&saved.x, &linears[i].w, linears[i].bias.as_ref(), adapter)
    })
}

/// `dy [t, out]` of each `-> dx [t, in]`, their sum; the gradients of all A and B are added to `grads`.
pub fn backward_all<const N: usize, O: Ops>(
    ops: &O,
    linears: [&LoraLinear<O::Tensor>; N],
    dys: [&O::Tensor; N],
    saved: &LinearSaved<O::Tensor>,
    at: Place,
    grads: &mut Sums<O::DeviceSums>,
) -> O::Tensor {
    let part = Part::Lora.enter();
    let (mut shared, mut dropped) = (Vec::new(), Vec::new());
    for (group, h_tr) in groups(linears, at).iter().zip(&saved.h_tr) {
        let mut dh_tr = Vec::with_capacity(N);
        for (i, adapter, h_tr) in group.parts(ops, h_tr) {
            let db = ops.matmul_tn(dys[i], &ops.scale(h_tr, adapter.scaling));
            ops.add_gradient(grads, &adapter.ranges[1..], &db);
            dh_tr.push(ops.scale(ops.matmul(dys[i], &adapter.lora_b), adapter.scaling));
        }
        let dh_tr = ops.stack_columns(&dh_tr.iter().collect::<Vec<_>>());
        let da = ops.matmul_tn(&dh_tr, &group.input(ops, &saved.x));
        let ranges: Vec<_> = group.members.iter().map(|(_, adapter)| adapter.ranges[0].clone()).collect();
        ops.add_gradient(grads, &ranges, &da);
        match group.mask {
            None => shared.push((dh_tr, group.a(ops))),
            Some(mask) => dropped.push(ops.dropout(&ops.matmul(&dh_tr, &group.a(ops)), mask)),
        }
    }
    drop(part);
    let mut pairs: Vec<_> = dys.into_iter().zip(linears.map(|linear| &linear.w)).collect();
    pairs.extend(shared.iter().map(|(dh_tr, a)| (dh_tr, a)));
    dropped.iter().fold(ops.sum_of_matmuls(&pairs), |dx, more| ops.add(dx, more))
}

/// An adapter and the place of its linear among those of the input.
type Member<'a, T> = (usize, &'a Adapter<T>);

/// Adapters that see the same input, as one of all their ranks.
struct Group<'a, T> {
    /// What is dropped of the input.
    mask: Option<Dropout>,
    members: Vec<Member<'a, T>>,
}

/// Without dropout all adapters of `linears` see the input itself; under dropout each sees another.
fn groups<const N: usize, T: Clone>(linears: [&LoraLinear<T>; N], at: Place) -> Vec<Group<'_, T>> {
    let mut groups: Vec<Group<T>> = Vec::new();
    for (i, linear) in linears.into_iter().enumerate() {
        let Some(adapter) = &linear.adapter else { continue };
        let mask = linear.mask(at);
        match groups.last_mut() {
            Some(Group { mask: None, members }) if mask.is_none() => members.push((i, adapter)),
            _ => groups.push(Group { mask, members: vec![(i, adapter)] }),
        }
    }
    groups
}

impl<'a, T: Clone> Group<'a, T> {
    /// The input as A sees it, `[t, in]`.
    fn input<O: Ops<Tensor = T>>(&self, ops: &O, x: &T) -> T {
        self.mask.map_or_else(|| x.clone(), |mask| ops.dropout(x, mask))
    }

    /// Every A, `[sum of r, in]`.
    fn a<O: Ops<Tensor = T>>(&self, ops: &O) -> T {
        ops.stack_rows(&self.members.iter().map(|(_, adapter)| &adapter.lora_a).collect::<Vec<_>>())
    }

    /// Each member with its columns of `h_tr [t, sum of r]`.
    fn parts<O: Ops<Tensor = T>>(&self, ops: &O, h_tr: &T) -> Vec<(usize, &'a Adapter<T>, T)> {
        let mut start = 0;
        let part = |&(i, adapter): &Member<'a, T>| {
            let columns = start..start + ops.shape(&adapter.lora_a)[0];
            start = columns.end;
            (i, adapter, ops.columns(h_tr, columns))
        };
        self.members.iter().map(part).collect()
    }
}
