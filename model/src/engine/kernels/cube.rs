//! Kernels in CubeCL: written once for NVIDIA's GPUs and for Vulkan. A launch is checked: no kernel here can write outside
//! its tensors.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorPrimitive};
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::std::InputBinding;

use super::sums::{self, DeviceSums};
use super::{Kernels, cross_entropy, elements, rows};
use crate::engine::Precision;
use crate::ops::{CrossEntropy, Dropout, Uniform};
use crate::sums::{StepSums, Sums};

/// Its own kernels on any backend that CubeCL compiles for.
#[derive(Clone, Copy, Debug)]
pub struct Cube;

pub(super) type Backend<R, M> = CubeBackend<R, f32, i32, M>;
pub(super) type Matrix<R, M> = Tensor<Backend<R, M>, 2>;

impl<R: CubeRuntime, M: BoolElement> Kernels<Backend<R, M>> for Cube {
    type DeviceSums = Option<DeviceSums<R, M>>;

    fn has_bf16(device: &R::Device) -> bool {
        let client = R::client(device);
        let (bf16, f32) = (DType::BF16.into(), DType::F32.into());
        let tiles = &client.properties().features.matmul.cmma;
        tiles.iter().any(|tile| (tile.a_type, tile.b_type, tile.cd_type) == (bf16, bf16, f32))
    }

    fn memory(device: &R::Device) -> Option<u64> {
        R::client(device).memory_usage().ok().map(|usage| usage.bytes_reserved)
    }

    /// Burn's own product takes f32 for TF32 where a GPU has it, which keeps 10 bits of 23.
    fn matmul<const D: usize>(a: Tensor<Backend<R, M>, D>, b: Tensor<Backend<R, M>, D>) -> Tensor<Backend<R, M>, D> {
        let [a, b] = [a, b].map(|x| x.into_primitive().tensor());
        let y = init_matmul_output(&a, &b, DType::F32);
        let tiles = Strategy::SimpleCyclicCmma(BlueprintStrategy::default());
        if a.dtype != DType::BF16 || multiply(&tiles, &a, &b, &y).is_err() {
            let units = Strategy::SimpleUnit(BlueprintStrategy::default());
            multiply(&units, &a, &b, &y).expect("units multiply any shapes on any device");
        }
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }

    fn uniform(numbers: Uniform, shape: [usize; 2], device: &R::Device) -> Matrix<R, M> {
        elements::uniform(numbers, shape, device)
    }

    fn dropout(x: Matrix<R, M>, mask: Dropout) -> Matrix<R, M> {
        elements::dropout(x, mask)
    }

    fn round_bf16<const D: usize>(x: Tensor<Backend<R, M>, D>) -> Tensor<Backend<R, M>, D> {
        elements::round_bf16(x)
    }

    fn linear(
        y: Matrix<R, M>,
        bias: Option<Matrix<R, M>>,
        more: Option<(Matrix<R, M>, f32)>,
        precision: Precision,
    ) -> Matrix<R, M> {
        elements::linear(y, bias, more, precision)
    }

    fn gelu(x: Matrix<R, M>, precision: Precision) -> Matrix<R, M> {
        elements::gelu(x, precision)
    }

    fn gelu_backward(dy: Matrix<R, M>, x: Matrix<R, M>, precision: Precision) -> Matrix<R, M> {
        elements::gelu_backward(dy, x, precision)
    }

    fn gelu_mul(gate: Matrix<R, M>, up: Matrix<R, M>, precision: Precision) -> Matrix<R, M> {
        elements::gelu_mul(gate, up, precision)
    }

    fn gelu_mul_backward(
        dh: Matrix<R, M>,
        gate: Matrix<R, M>,
        up: Matrix<R, M>,
        precision: Precision,
    ) -> (Matrix<R, M>, Matrix<R, M>) {
        elements::gelu_mul_backward(dh, gate, up, precision)
    }

    fn rms_norm(x: Matrix<R, M>, gain: Matrix<R, M>, eps: f32, precision: Precision) -> Matrix<R, M> {
        rows::rms_norm(x, gain, eps, precision)
    }

    fn rms_norm_backward(
        dy: Matrix<R, M>,
        x: Matrix<R, M>,
        gain: Matrix<R, M>,
        eps: f32,
        precision: Precision,
    ) -> Matrix<R, M> {
        rows::rms_norm_backward(dy, x, gain, eps, precision)
    }

    fn layer_norm(x: Matrix<R, M>, w: Matrix<R, M>, b: Matrix<R, M>, eps: f32, precision: Precision) -> Matrix<R, M> {
        rows::layer_norm(x, w, b, eps, precision)
    }

    fn layer_norm_backward(
        dy: Matrix<R, M>,
        x: Matrix<R, M>,
        w: Matrix<R, M>,
        eps: f32,
        precision: Precision,
    ) -> Matrix<R, M> {
        rows::layer_norm_backward(dy, x, w, eps, precision)
    }

    fn cross_entropy(
        logits: Matrix<R, M>,
        targets: Tensor<Backend<R, M>, 1, Int>,
        scale: f32,
    ) -> CrossEntropy<Matrix<R, M>> {
        cross_entropy::cross_entropy(logits, targets, scale)
    }

    fn add_gradient(sums: &mut Sums<Self::DeviceSums>, ranges: &[Range<usize>], gradient: Matrix<R, M>) {
        sums::add_gradient(sums, ranges, gradient);
    }

    fn count_not_finite(sums: &mut Sums<Self::DeviceSums>) {
        sums::count_not_finite(sums);
    }

    fn collect(mut sums: Sums<Self::DeviceSums>) -> StepSums {
        sums::download(&mut sums);
        sums.host
    }
}

fn multiply<R: CubeRuntime>(
    strategy: &Strategy,
    a: &CubeTensor<R>,
    b: &CubeTensor<R>,
    y: &CubeTensor<R>,
) -> Result<(), MatmulSetupError> {
    let dtypes = MatmulGlobalElems { lhs: a.dtype.into(), rhs: b.dtype.into(), out: y.dtype.into() };
    let [a, b] = [a, b].map(|x| InputBinding::new(x.clone().binding(), x.dtype.into()));
    launch_ref(strategy, &y.client, a, b, y.clone().binding(), &mut MatmulElems::from_globals(&dtypes))
}
