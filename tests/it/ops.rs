//! Every operation's forward and gradient against the reference's (tests/reference/ops_oracle.py): gradients are those
//! of `sum(out * probe)`. Tolerance 1e-5 of the largest element in f32 (sums of at most a few hundred products, each
//! rounded to 6e-8), 2^-7 of it in bf16 (one rounding of its 8 bits).

use burn::backend::Flex;
use model::engine::{Burn, Cpu, Precision};
use model::lora_linear::{Adapter, LoraLinear};
use model::ops::{AttentionRow, AttentionSaved, AttentionShape, Ops, Place};
use model::{Stat, StepSums, Sums};

use crate::fixture::{Tensor, Tensors, check, check_relative};

const F32: f64 = 1e-5;

struct Bench<O: Ops> {
    ops: O,
    fixture: Tensors,
}

impl<O: Ops> Bench<O> {
    fn new(ops: O) -> Self {
        Self { ops, fixture: Tensors::open("ops/ops.safetensors") }
    }

    /// A fixture tensor as a matrix: the last axis is the columns.
    fn get(&self, name: &str) -> O::Tensor {
        let tensor = self.fixture.get(name);
        let columns = *tensor.shape.last().unwrap();
        self.ops.upload(tensor.f32(), [tensor.data.len() / columns, columns])
    }

    #[track_caller]
    fn check(&self, name: &str, found: &O::Tensor) {
        check_relative(name, &self.ops.download(found), self.fixture.get(name), F32);
    }
}

/// One test an operation and engine.
macro_rules! on_every_engine {
    ($precision:ident: $($operation:ident),* $(,)?) => {
        mod cpu {
            $(#[test] fn $operation() { super::super::$operation(&super::Bench::new(super::Cpu::new(super::Precision::$precision))); })*
        }
        mod burn {
            $(#[test] fn $operation() { super::super::$operation(&super::Bench::new(super::flex(super::Precision::$precision))); })*
        }
        #[cfg(feature = "vulkan")]
        mod vulkan {
            $(#[test] fn $operation() {
                if let Some(ops) = crate::vulkan::engine(super::Precision::$precision) {
                    super::super::$operation(&super::Bench::new(ops));
                }
            })*
        }
    };
}

/// The engine over any Burn backend, on Burn's own CPU backend.
fn flex(precision: Precision) -> Burn<Flex> {
    Burn::new(Default::default(), precision)
}

mod f32 {
    use super::*;
    on_every_engine!(F32: norms, activations, a_linear_layer, a_linear_layer_with_an_adapter, dropout_acts_on_the_input_of_a_alone, pooling, grouped_attention_under_a_mask, rotary_embedding_at_the_real_sizes, cross_entropy_of_supervised_rows);
}

mod bf16 {
    use super::*;
    on_every_engine!(Bf16: norm_in_bf16_is_computed_in_f32_and_rounded_once);
}

fn norms<O: Ops>(b: &Bench<O>) {
    let gain = b.ops.upload(b.fixture.f32("rmsnorm.w").iter().map(|w| 1.0 + w).collect(), [1, 64]);
    b.check("rmsnorm.out", &b.ops.rms_norm(&b.get("rmsnorm.x"), &gain, 1e-6));
    b.check("rmsnorm.grad.x", &b.ops.rms_norm_backward(&b.get("rmsnorm.probe"), &b.get("rmsnorm.x"), &gain, 1e-6));
    let [x, w, bias, probe] = ["x", "w", "b", "probe"].map(|n| b.get(&format!("layernorm.{n}")));
    b.check("layernorm.out", &b.ops.layer_norm(&x, &w, &bias, 1e-6));
    b.check("layernorm.grad.x", &b.ops.layer_norm_backward(&probe, &x, &w, 1e-6));
}

fn norm_in_bf16_is_computed_in_f32_and_rounded_once<O: Ops>(b: &Bench<O>) {
    let gain = b.ops.upload(b.fixture.f32("rmsnorm_bf16.w").iter().map(|w| 1.0 + w).collect(), [1, 64]);
    let x = b.get("rmsnorm_bf16.x");
    let out = b.ops.download(&b.ops.rms_norm(&x, &gain, 1e-6));
    check_relative("rmsnorm_bf16.out", &out, b.fixture.get("rmsnorm_bf16.out"), 1.0 / 128.0);
    let dx = b.ops.download(&b.ops.rms_norm_backward(&b.get("rmsnorm_bf16.probe"), &x, &gain, 1e-6));
    check_relative("rmsnorm_bf16.grad.x", &dx, b.fixture.get("rmsnorm_bf16.grad.x"), 1.0 / 128.0);
}

fn activations<O: Ops>(b: &Bench<O>) {
    b.check("gelu_tanh.out", &b.ops.gelu(&b.get("gelu_tanh.x")));
    b.check("gelu_tanh.grad.x", &b.ops.gelu_backward(&b.get("gelu_tanh.probe"), &b.get("gelu_tanh.x")));
    let [gate, up, probe] = ["gate", "up", "probe"].map(|n| b.get(&format!("geglu.{n}")));
    b.check("geglu.out", &b.ops.gelu_mul(&gate, &up));
    let (dgate, dup) = b.ops.gelu_mul_backward(&probe, &gate, &up);
    b.check("geglu.grad.gate", &dgate);
    b.check("geglu.grad.up", &dup);
}

fn a_linear_layer<O: Ops>(b: &Bench<O>) {
    let layer = LoraLinear { w: b.get("linear.w"), bias: Some(b.get("linear.b")), module: 0, adapter: None };
    let x = b.get("linear.x");
    let (out, saved) = layer.forward(&b.ops, x, Place::Eval);
    b.check("linear.out", &out);
    let mut none = Sums::new(StepSums::zero(0));
    b.check("linear.grad.x", &layer.backward(&b.ops, &b.get("linear.probe"), &saved, Place::Eval, &mut none));
}

fn a_linear_layer_with_an_adapter<O: Ops>(b: &Bench<O>) {
    let adapter = Adapter {
        lora_a: b.get("lora.A"),
        lora_b: b.get("lora.B"),
        ranges: [0..96, 96..256],
        scaling: 2.0,
        dropout: 0.0,
    };
    let layer = LoraLinear { w: b.get("lora.w"), bias: Some(b.get("lora.b")), module: 0, adapter: Some(adapter) };
    let x = b.get("lora.x");
    let (out, saved) = layer.forward(&b.ops, x, Place::Eval);
    b.check("lora.out", &out);
    let mut sums = Sums::new(StepSums::zero(256));
    b.check("lora.grad.x", &layer.backward(&b.ops, &b.get("lora.probe"), &saved, Place::Eval, &mut sums));
    let sums = b.ops.collect(sums);
    let grads = sums.gradients(1.0);
    check_relative("lora.grad.A", &grads[..96], b.fixture.get("lora.grad.A"), F32);
    check_relative("lora.grad.B", &grads[96..], b.fixture.get("lora.grad.B"), F32);
    assert_eq!(sums.counted(Stat::NotFinite), 0);
}

/// The reference's mask is explicit; ours is a function. What must hold is that dropping elements of the input of A
/// is the whole of it, so the reference's dropped and scaled input is given instead.
fn dropout_acts_on_the_input_of_a_alone<O: Ops>(b: &Bench<O>) {
    let x = b.get("lora_dropout.x");
    let keep: Vec<f32> = b.fixture.f32("lora.keep").iter().map(|k| k / 0.95).collect();
    let dropped: Vec<f32> = b.ops.download(&x).iter().zip(&keep).map(|(x, k)| x * k).collect();
    let dropped = b.ops.upload(dropped, [14, 24]);
    let (a, bb) = (b.get("lora_dropout.A"), b.get("lora_dropout.B"));
    let update = b.ops.scale(b.ops.matmul_nt(&b.ops.matmul_nt(&dropped, &a), &bb), 2.0);
    let base = b.ops.add(b.ops.matmul_nt(&x, &b.get("lora.w")), &b.get("lora.b"));
    b.check("lora_dropout.out", &b.ops.add(base, &update));
}

fn pooling<O: Ops>(b: &Bench<O>) {
    let planes = b.fixture.get("avgpool.x");
    let rows = |t: &Tensor, side: usize| -> Vec<f32> {
        let (n, c, plane) = (t.shape[0], t.shape[1], side * side);
        let at = |i: usize| (i / (c * plane), i % c, i / c % plane);
        (0..n * c * plane).map(at).map(|(n, ch, p)| t.data[(n * c + ch) * plane + p] as f32).collect()
    };
    let as_rows = |name: &str, side| Tensor {
        shape: vec![],
        data: rows(b.fixture.get(name), side).iter().map(|&v| f64::from(v)).collect(),
    };
    let x = b.ops.upload(rows(planes, 6), [72, 5]);
    check("avgpool.out", &b.ops.download(&b.ops.avg_pool(&x, 6, 2)), &as_rows("avgpool.out", 3), F32);
    let probe = b.ops.upload(rows(b.fixture.get("avgpool.probe"), 3), [18, 5]);
    let dx = b.ops.download(&b.ops.avg_pool_backward(&probe, 6, 2));
    check("avgpool.grad.x", &dx, &as_rows("avgpool.grad.x", 6), F32);
}

fn grouped_attention_under_a_mask<O: Ops>(b: &Bench<O>) {
    let (rows, len, n) = (2, 9, 16);
    // [rows, heads, len, n] as [rows * len, heads * n].
    let tokens = |t: &Tensor| -> Vec<f32> {
        let heads = t.shape[1];
        let from = |i: usize| {
            let (row, at, head, k) = (i / (len * heads * n), i / (heads * n) % len, i / n % heads, i % n);
            t.data[((row * heads + head) * len + at) * n + k] as f32
        };
        (0..t.data.len()).map(from).collect()
    };
    let get = |name: &str| {
        let t = b.fixture.get(name);
        b.ops.upload(tokens(t), [rows * len, t.shape[1] * n])
    };
    let [q, k, v] = ["attention.q", "attention.k", "attention.v"].map(get);
    let run = |allowed: &[f64]| -> [u32; 2] {
        let first = allowed.iter().take_while(|&&v| v == 0.0).count();
        let end = first + allowed[first..].iter().take_while(|&&v| v == 1.0).count();
        assert!(allowed[end..].iter().all(|&v| v == 0.0), "what a query sees is one run");
        [first as u32, end as u32]
    };
    let seen: Vec<[u32; 2]> = b.fixture.get("attention.allow").data.chunks(len).map(run).collect();
    let row = AttentionRow { n_keys: len, seen };
    let scale = 24.0_f32.powf(-0.5);
    let shape = AttentionShape { rows: vec![row; rows], heads: 4, kv_heads: 2, head_dim: n, scale };
    let plan = b.ops.plan_attention(shape);
    let (out, lse) = b.ops.attention(&q, &k, &v, &plan);
    b.check("attention.out", &out); // Already [rows, len, heads, n].
    let dout = b.ops.upload(b.fixture.f32("attention.probe"), [rows * len, 4 * n]);
    let saved = AttentionSaved { q, k, v, out, lse };
    let grads = b.ops.attention_backward(&dout, &saved, &plan);
    for (name, grad) in ["q", "k", "v"].into_iter().zip(grads) {
        let expected = b.fixture.get(&format!("attention.grad.{name}"));
        let data = tokens(expected).iter().map(|&v| f64::from(v)).collect();
        check(name, &b.ops.download(&grad), &Tensor { shape: vec![], data }, F32);
    }
}

/// Positions up to 2047 turn by up to 2047 radians, where one f32 step of the angle is 1.2e-4; the reference computes
/// angle, cosine and sine in f32 as well, so that almost every value is equal and none differs by more than that.
fn rotary_embedding_at_the_real_sizes<O: Ops>(b: &Bench<O>) {
    for kind in ["local", "global"] {
        let half = |name: &str| -> O::Tensor {
            let rows = b.fixture.f32(&format!("rope.{kind}.{name}"));
            b.ops.upload(rows.chunks(256).flat_map(|row| row[..128].to_vec()).collect(), [10, 128])
        };
        let (cos, sin) = (half("cos"), half("sin"));
        for (what, heads) in [("q", 2), ("k", 1)] {
            // [1, heads, 10, 256] as [10, heads * 256].
            let tokens = |t: &Tensor| -> Vec<f32> {
                (0..t.data.len())
                    .map(|i| t.data[(i / 256 % heads * 10 + i / (heads * 256)) * 256 + i % 256] as f32)
                    .collect()
            };
            let x = b.ops.upload(tokens(b.fixture.get(&format!("rope.{kind}.{what}"))), [10, heads * 256]);
            let y = b.ops.rope(&x, &cos, &sin);
            let expected = tokens(b.fixture.get(&format!("rope.{kind}.{what}_out")));
            let expected = Tensor { shape: vec![], data: expected.iter().map(|&v| f64::from(v)).collect() };
            check(&format!("rope.{kind}.{what}"), &b.ops.download(&y), &expected, F32);
            let minus_sin = b.ops.scale(sin.clone(), -1.0);
            let back = b.ops.download(&b.ops.rope(&y, &cos, &minus_sin));
            let x = b.ops.download(&x).iter().map(|&v| f64::from(v)).collect();
            check("the rotation back", &back, &Tensor { shape: vec![], data: x }, F32);
        }
    }
}

fn cross_entropy_of_supervised_rows<O: Ops>(b: &Bench<O>) {
    let labels = b.fixture.get("ce.labels").i64();
    let rows: Vec<u32> = (0..6).filter(|&i| labels[i as usize] >= 0).collect();
    let targets: Vec<u32> = rows.iter().map(|&i| labels[i as usize] as u32).collect();
    let logits = b.ops.gather_rows(&b.get("ce.logits"), &rows);
    let ce = b.ops.cross_entropy(logits, &targets, 1.0 / rows.len() as f32);
    let mean = ce.loss.iter().sum::<f32>() / rows.len() as f32;
    check("ce.mean", &[mean], b.fixture.get("ce.mean"), F32);
    let pick = |name: &str, width: usize| {
        let all = &b.fixture.get(name).data;
        let data = rows.iter().flat_map(|&i| all[i as usize * width..][..width].to_vec()).collect();
        Tensor { shape: vec![], data }
    };
    check("ce.entropy", &ce.entropy, &pick("ce.entropy", 1), F32);
    check("ce.grad.logits", &b.ops.download(&ce.dlogits), &pick("ce.grad.logits", 50), F32);
}
