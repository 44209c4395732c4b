//! Whether a parquet footer can be passed over in as many steps as it has bytes. It knows nothing of what the fields mean.
//!
//! The parquet crate (60.1) skips what it does not know element by element, and elements of a list of booleans take no bytes
//! there: thirty damaged bytes that claim lists of two thousand million keep it busy for minutes, nested ones for ever.
//! (Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.)

/// Deepest nesting; a footer has six levels.
const MAX_DEPTH: u32 = 64;

/// What is wrong with the bytes of a footer, its length and the letters behind it left out.
pub(crate) fn fault(footer: &[u8]) -> Option<&'static str> {
    Bytes { left: footer }.skip(STRUCT, MAX_DEPTH).err()
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I8: u8 = 3;
const I16: u8 = 4;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

struct Bytes<'a> {
    left: &'a [u8],
}

type Skipped<T = ()> = Result<T, &'static str>;

impl Bytes<'_> {
    fn byte(&mut self) -> Skipped<u8> {
        let (&first, rest) = self.left.split_first().ok_or("its footer ends early")?;
        self.left = rest;
        Ok(first)
    }

    fn bytes(&mut self, n: u64) -> Skipped {
        let n = usize::try_from(n).ok().filter(|&n| n <= self.left.len()).ok_or("its footer ends early")?;
        self.left = &self.left[n..];
        Ok(())
    }

    /// A number of 7 bits a byte.
    fn number(&mut self) -> Skipped<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number of its footer has no end")
    }

    /// `n` elements of one kind; what takes no bytes is in no footer.
    fn elements(&mut self, n: u64, kinds: &[u8], depth: u32) -> Skipped {
        if n > self.left.len() as u64 || (n > 0 && kinds.iter().all(|&kind| kind == TRUE || kind == FALSE)) {
            return Err("a list of its footer claims more than there is");
        }
        (0..n).try_for_each(|_| kinds.iter().try_for_each(|&kind| self.skip(kind, depth)))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Skipped {
        let depth = depth.checked_sub(1).ok_or("its footer is nested too deep")?;
        match kind {
            TRUE | FALSE => Ok(()),
            I8 => self.bytes(1),
            I16..=I64 => self.number().map(drop),
            DOUBLE => self.bytes(8),
            BINARY => {
                let n = self.number()?;
                self.bytes(n)
            }
            LIST | SET => match self.byte()? {
                0 => Ok(()), // Some writers' empty list.
                head => {
                    let n = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
                    self.elements(n, &[head & 15], depth)
                }
            },
            MAP => match self.number()? {
                0 => Ok(()),
                n => {
                    let kinds = self.byte()?;
                    self.elements(n, &[kinds >> 4, kinds & 15], depth)
                }
            },
            STRUCT => loop {
                match self.byte()? {
                    0 => return Ok(()),
                    head => {
                        if head >> 4 == 0 {
                            self.number()?; // The field's own number, where it is no small step from the last one's.
                        }
                        self.skip(head & 15, depth)?;
                    }
                }
            },
            UUID => self.bytes(16),
            _ => Err("a field of its footer is of no kind"),
        }
    }
}

#[cfg(test)]
mod tests;
