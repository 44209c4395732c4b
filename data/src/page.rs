//! From the encoded bytes of a page to S x S RGB pixels, as the PIL-backed Gemma 3 image processor sees them.
//! It never trusts a header: sizes are checked before pixels are allocated, and a damaged page is an error, not a guess.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::PageError;
use crate::resize::{Pixels, resize};

const MAX_SIDE: usize = 20_000;
const MAX_PIXELS: usize = 50_000_000;

/// Decodes a PNG or JPEG (told by content, any colour type) and resizes it to [image_size, image_size, 3] u8,
/// ignoring aspect, equal to the bit to `Image.open(..).convert("RGB").resize(.., BILINEAR)` of Pillow 12 for PNG.
/// JPEG decoders differ by a few levels; 16-bit grey keeps its high byte, where Pillow clips the page to white.
///
/// # Errors
/// Another format, a size beyond 50 megapixels or 20,000 a side, or any damage the decoders can see.
pub fn page(bytes: &[u8], image_size: usize) -> Result<Vec<u8>, PageError> {
    Ok(resize(&decode(bytes)?, image_size))
}

/// The pixels of a PNG or JPEG, told by content: the first half of [`page`].
///
/// # Errors
/// As there.
pub fn decode(bytes: &[u8]) -> Result<Pixels, PageError> {
    let (format, decode): (_, fn(&[u8]) -> _) = match bytes {
        [] => return Err(PageError::Empty),
        [0x89, b'P', b'N', b'G', ..] => ("PNG", png),
        [0xff, 0xd8, 0xff, ..] => ("JPEG", jpeg),
        _ => return Err(PageError::Format),
    };
    // The decoders are fuzzed, but a panic in one must cost a row and not the run.
    catch_unwind(AssertUnwindSafe(|| decode(bytes)))
        .unwrap_or_else(|_| Err(Refused::Damaged("the decoder panicked".into())))
        .map_err(|refused| match refused {
            Refused::Size { width, height } => {
                PageError::Size { width, height, max_side: MAX_SIDE, max_pixels: MAX_PIXELS }
            }
            Refused::Damaged(reason) => PageError::Damaged { format, reason },
        })
}

/// [size, size, 3] u8 as a lossless PNG, which [`page`] gives back to the bit.
pub(crate) fn encode(rgb: &[u8], size: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size as u32, size as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

enum Refused {
    Size { width: usize, height: usize },
    Damaged(String),
}

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn check_size(width: usize, height: usize) -> Result<(), Refused> {
    let fits = 1..=MAX_SIDE;
    if fits.contains(&width) && fits.contains(&height) && width * height <= MAX_PIXELS {
        Ok(())
    } else {
        Err(Refused::Size { width, height })
    }
}

fn png(bytes: &[u8]) -> Result<Pixels, Refused> {
    let mut options = png::DecodeOptions::default();
    options.set_ignore_adler32(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let (width, height) = decoder.read_header_info()?.size();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let mut reader = decoder.read_info()?;
    let channels = reader.output_color_type().0.samples();
    let mut bytes = vec![0; width * height * channels];
    reader.next_frame(&mut bytes)?;
    reader.finish()?; // Up to the end marker: a file that stops earlier was cut.
    Ok(Pixels { width, height, channels, bytes })
}

fn jpeg(bytes: &[u8]) -> Result<Pixels, Refused> {
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(MAX_SIDE).set_max_height(MAX_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    check_size(width, height)?;
    let bytes = decoder.decode()?;
    if bytes.len() != width * height * 3 {
        return Err(Refused::Damaged(format!("{} bytes decoded for {width} x {height} RGB pixels", bytes.len())));
    }
    Ok(Pixels { width, height, channels: 3, bytes })
}

#[cfg(test)]
mod tests;
