//! The devices of Vulkan. What is asked here is asked of the drivers before CubeCL opens a device, which has no errors.

use burn::backend::wgpu::WgpuDevice;
use wgpu::{Backends, DeviceType, Instance, InstanceDescriptor};

use super::device::{Backend, DeviceError};

/// Device `index`: GPUs in the drivers' order, those with memory of their own first; the CPU through a software driver only
/// where there is no GPU.
pub(super) fn device(index: usize) -> Result<WgpuDevice, DeviceError> {
    let mut found = devices();
    match found.get(index) {
        None if found.is_empty() => Err(DeviceError::NoVulkan),
        None => {
            let names = found.into_iter().map(|(_, name)| name).collect();
            Err(DeviceError::TooFew { backend: Backend::Vulkan, asked: index + 1, names })
        }
        Some(_) => Ok(found.swap_remove(index).0),
    }
}

/// Every device with its name.
fn devices() -> Vec<(WgpuDevice, String)> {
    let asked = InstanceDescriptor { backends: Backends::VULKAN, ..InstanceDescriptor::new_without_display_handle() };
    let adapters = cubecl::future::block_on(Instance::new(asked).enumerate_adapters(Backends::VULKAN));
    let infos: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let of = |kind: DeviceType, make: fn(usize) -> WgpuDevice| {
        let names = infos.iter().filter(move |info| info.device_type == kind).map(|info| info.name.clone());
        names.enumerate().map(move |(n, name)| (make(n), name)).collect::<Vec<_>>()
    };
    let gpus = [
        of(DeviceType::DiscreteGpu, WgpuDevice::DiscreteGpu),
        of(DeviceType::IntegratedGpu, WgpuDevice::IntegratedGpu),
        of(DeviceType::VirtualGpu, WgpuDevice::VirtualGpu),
    ]
    .concat();
    if gpus.is_empty() { of(DeviceType::Cpu, |_| WgpuDevice::Cpu).into_iter().take(1).collect() } else { gpus }
}
