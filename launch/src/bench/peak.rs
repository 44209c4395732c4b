//! What a GPU can do at most, known by its name. It never guesses: of any other device `--peak-tflops` has to say it.

use model::engine::nvidia::Search;
use model::engine::{Backend, Device, Precision};

/// TFLOP/s of dense products of bf16 numbers added in f32, as NVIDIA's data sheets say, by a part of the driver's name of
/// the device; the first that fits.
const KNOWN: [(&str, f64); 6] =
    [("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.0), ("H200", 989.0), ("A100", 312.0), ("L40S", 362.0)];

/// What was given, else what is known of the device that computes in bf16.
pub(super) fn tflops(given: Option<f64>, device: Device, precision: Precision) -> Option<f64> {
    let known = || match (device, precision) {
        (Device::Gpu(Backend::Cuda, index), Precision::Bf16) => {
            of_name(Search::of_process().device_names().ok()?.get(index)?)
        }
        _ => None,
    };
    given.or_else(known)
}

fn of_name(name: &str) -> Option<f64> {
    KNOWN.iter().find(|(part, _)| name.contains(part)).map(|(_, tflops)| *tflops)
}

#[cfg(test)]
mod tests {
    use super::of_name;

    #[test]
    fn a_device_is_known_by_its_name_or_not_at_all() {
        for (name, tflops) in [
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA H100 80GB HBM3", Some(989.0)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA H200", Some(989.0)),
            ("NVIDIA A10", None),
            ("NVIDIA GeForce RTX 4090", None),
        ] {
            assert_eq!(of_name(name), tflops, "{name}");
        }
    }
}
