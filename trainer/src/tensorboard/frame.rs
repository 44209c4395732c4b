//! Records in a file as TensorFlow frames them: length, its checksum, bytes, their checksum (TFRecord). What does not
//! agree with its checksums is never handed out.

/// Longest record that is read; ours have about 500 bytes.
const MAX_BYTES: usize = 1 << 20;
/// Before the bytes of a record: their number and its checksum.
const HEAD: usize = 12;
/// Behind them: their checksum.
const TAIL: usize = 4;

/// CRC-32C's polynomial (Castagnoli), bits reversed, applied to each byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// One record with its frame.
pub(super) fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), bytes, &masked(bytes)].concat()
}

/// The records of a file up to the first that is torn or damaged, and how many bytes those have with their frames.
pub(super) fn records(file: &[u8]) -> (Vec<&[u8]>, usize) {
    let (mut records, mut whole) = (Vec::new(), 0);
    while let Some(record) = first(&file[whole..]) {
        records.push(record);
        whole += HEAD + record.len() + TAIL;
    }
    (records, whole)
}

fn first(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let n_bytes = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|&n| n <= MAX_BYTES)?;
    let (record, rest) = rest.split_at_checked(n_bytes)?;
    (*checksum == masked(length) && rest.get(..TAIL)? == masked(record)).then_some(record)
}

/// A checksum as the format has it: turned and moved, so that the checksum of bytes that hold checksums is a good one.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}
