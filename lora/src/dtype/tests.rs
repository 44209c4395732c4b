use super::*;
use half::bf16;
use proptest::prelude::*;

proptest! {
    #[test]
    fn bf16_is_rounded_as_the_half_crate_rounds(bits: u32) {
        let x = f32::from_bits(bits);
        prop_assert_eq!(round_bf16(x).to_bits(), bf16::from_f32(x).to_f32().to_bits());
        prop_assert_eq!(Dtype::Bf16.encode(&[x]), bf16::from_f32(x).to_le_bytes());
    }
}

#[test]
fn every_half_number_is_read_back_as_it_was() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let numbers = dtype.decode(&all);
        let finite = |i: usize| numbers[i].is_finite();
        let again = dtype.encode(&numbers);
        for i in (0..numbers.len()).filter(|i| finite(*i)) {
            assert_eq!(again[2 * i..2 * i + 2], all[2 * i..2 * i + 2], "{dtype:?} {i}");
        }
    }
}
