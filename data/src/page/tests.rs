use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::*;
use crate::fixtures;

const NAMES: [&str; 9] = [
    "exact_56",
    "up_40x30",
    "down_300x200",
    "wide_320x64",
    "tall_37x211",
    "tiny_2x2",
    "gray_64x48",
    "rgba_50x70",
    "page_1100x850",
];

fn png_of(name: &str) -> Vec<u8> {
    std::fs::read(fixtures::path("image").join(format!("{name}.png"))).unwrap()
}

fn tensors<R>(read: impl FnOnce(&SafeTensors) -> R) -> R {
    let bytes = std::fs::read(fixtures::path("image/images.safetensors")).unwrap();
    read(&SafeTensors::deserialize(&bytes).unwrap())
}

/// [channel, y, x] of a page in [y, x, channel].
fn at(page: &[u8], size: usize, c: usize, y: usize, x: usize) -> u8 {
    page[(y * size + x) * 3 + c]
}

#[test]
fn pages_equal_the_pil_processors_to_the_bit() {
    tensors(|file| {
        for name in NAMES {
            let page = page(&png_of(name), 56).unwrap();
            let tensor = file.tensor(&format!("{name}.56.pil")).unwrap();
            let normalised = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            for (i, expected) in normalised.enumerate() {
                let v = at(&page, 56, i / (56 * 56), i / 56 % 56, i % 56);
                assert_eq!(v, ((expected * 0.5 + 0.5) * 255.0).round() as u8, "{name} {i}");
                // The last step is the device's; the reference's own paths are 6e-8 apart there.
                let ours = (f32::from(v) / 255.0 - 0.5) / 0.5;
                assert!((ours - expected).abs() <= 6e-8, "{name} {i}: {ours} {expected}");
            }
        }
    });
}

#[test]
fn pages_of_the_real_size_equal_the_pil_processors_to_the_bit() {
    const SIZE: usize = 896;
    tensors(|file| {
        for name in ["page_1100x850", "down_300x200"] {
            let page = page(&png_of(name), SIZE).unwrap();
            let tensor = |part: &str| file.tensor(&format!("{name}.{SIZE}.pil.{part}")).unwrap();
            for c in 0..3 {
                let every7 = (0..128 * 128).map(|i| at(&page, SIZE, c, i / 128 * 7, i % 128 * 7));
                assert!(every7.eq(tensor("u8_every7").data()[c * 128 * 128..][..128 * 128].iter().copied()), "{name}");
                let rows = [0, 1, 447, 448, 894, 895].into_iter();
                let rows = rows.flat_map(|y| (0..SIZE).map(move |x| (y, x))).map(|(y, x)| at(&page, SIZE, c, y, x));
                assert!(rows.eq(tensor("u8_rows").data()[c * 6 * SIZE..][..6 * SIZE].iter().copied()), "{name}");
                let sum: i64 = page.iter().skip(c).step_by(3).map(|&v| i64::from(v)).sum();
                assert_eq!(sum, i64::from_le_bytes(tensor("u8_sum").data().as_chunks().0[c]), "{name}");
            }
        }
    });
}

#[test]
fn decoding_gives_the_pixels_that_were_stored() {
    tensors(|file| {
        for name in NAMES.into_iter().filter(|name| *name != "page_1100x850") {
            let source = file.tensor(&format!("{name}.src")).unwrap();
            let pixels = png(&png_of(name)).ok().unwrap();
            assert_eq!([pixels.height, pixels.width, pixels.channels], source.shape(), "{name}");
            assert_eq!(pixels.bytes, source.data(), "{name}");
        }
    });
}

#[test]
fn no_flipped_bit_of_a_png_goes_unnoticed() {
    let good = png_of("tiny_2x2");
    let expected = page(&good, 8).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match page(&bytes, 8) {
            Err(_) => {}
            Ok(page) => assert_eq!(page, expected, "bit {bit} changed the page silently"),
        }
    }
}

#[test]
fn a_png_cut_anywhere_is_damaged() {
    let good = png_of("gray_64x48");
    for len in 8..good.len() {
        let refused = page(&good[..len], 8).unwrap_err();
        assert!(matches!(refused, PageError::Damaged { format: "PNG", .. }), "{len}: {refused}");
    }
}

/// A PNG that is only its header, of a 1-bit grey page.
fn header(width: u32, height: u32, crc: u32) -> Vec<u8> {
    let words = |list: &[u32]| list.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..], &words(&[width, height]), &[1, 0, 0, 0, 0], &words(&[crc])].concat()
}

#[test]
fn a_size_is_checked_before_pixels_are_allocated() {
    for (width, height, crc) in [(30_000, 30_000, 0x4e5c_c517), (20_001, 1, 0xfc0d_c81d), (10_000, 5_001, 0xf470_9940)]
    {
        let refused = page(&header(width, height, crc), 56).unwrap_err();
        assert!(matches!(refused, PageError::Size { .. }), "{width} x {height}: {refused}");
    }
}

#[test]
fn what_is_no_page_is_named() {
    assert_eq!(page(b"", 56), Err(PageError::Empty));
    assert_eq!(page(b"<html>404</html>", 56), Err(PageError::Format));
    assert_eq!(page(b"GIF89a", 56), Err(PageError::Format));
}

/// The encodings of one page in the mini data set, by name.
fn encodings() -> Option<BTreeMap<String, Vec<u8>>> {
    let files = vec![fixtures::mini("variants/image_encodings.parquet")?];
    let data = crate::Dataset::open(&crate::Sources {
        files,
        image_folder: None,
        include: String::new(),
        keep_image_marker: false,
    });
    let data = data.unwrap();
    Some((0..data.len()).map(|i| data.row(i).unwrap()).map(|row| (row.id, row.image)).collect())
}

#[test]
fn every_encoding_of_a_page_is_the_same_page() {
    let Some(encodings) = encodings() else { return };
    let page = |name: &str| page(&encodings[name], 224).unwrap();
    for (same, as_name) in [
        ("png_rgba", "png_rgb"), // Alpha is dropped.
        ("png_gray_alpha", "png_gray"),
        ("png_16bit", "png_gray"),         // The high byte.
        ("jpeg_exif_rotated", "jpeg_rgb"), // As Pillow's convert: the camera's orientation is not applied.
        ("jpeg_progressive", "jpeg_rgb"),
    ] {
        assert!(page(same) == page(as_name), "{same} differs from {as_name}");
    }
    // Quantised, compressed or dithered: near, not equal.
    for (near, to, levels) in [
        ("png_palette", "png_rgb", 3.0),
        ("jpeg_rgb", "png_rgb", 3.0),
        ("jpeg_cmyk", "png_rgb", 3.0),
        ("jpeg_gray", "png_gray", 3.0),
        ("png_1bit", "png_gray", 20.0),
    ] {
        let difference: u32 = page(near).iter().zip(&page(to)).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        let mean = f64::from(difference) / (224.0 * 224.0 * 3.0);
        assert!(mean < levels, "{near} is {mean} levels from {to}");
    }
    for other in ["webp", "bmp", "gif", "tiff"] {
        assert_eq!(super::page(&encodings[other], 224), Err(PageError::Format), "{other}");
    }
}

#[test]
fn a_jpeg_that_was_cut_is_damaged() {
    let Some(encodings) = encodings() else { return };
    for name in ["jpeg_rgb", "jpeg_gray", "jpeg_progressive", "jpeg_cmyk"] {
        let jpeg = &encodings[name];
        for percent in [1, 10, 50, 90, 99] {
            let refused = page(&jpeg[..jpeg.len() * percent / 100], 56);
            assert!(matches!(refused, Err(PageError::Damaged { format: "JPEG", .. })), "{name} cut at {percent} %");
        }
    }
}
