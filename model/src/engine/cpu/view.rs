//! Some rows and columns of numbers that lie somewhere, in f32 or, of a frozen factor, in bf16. It owns no number and
//! computes none.

use half::bf16;

use super::buffer::Buffer;
use crate::vector::vectorised;

/// Numbers one after the other.
#[derive(Clone, Copy)]
pub enum Slice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Slice<'a> {
    fn len(self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// What is left behind `first` numbers.
    #[inline(always)]
    fn from(self, first: usize) -> Self {
        match self {
            Self::F32(data) => Self::F32(&data[first..]),
            Self::Bf16(data) => Self::Bf16(&data[first..]),
        }
    }

    /// The first numbers in f32, into `place`.
    #[inline(always)]
    pub fn copy_to(self, place: &mut [f32]) {
        match self {
            Self::F32(data) => place.copy_from_slice(&data[..place.len()]),
            Self::Bf16(data) => place.iter_mut().zip(data).for_each(|(wide, narrow)| *wide = narrow.wide()),
        }
    }
}

/// A number as it lies.
pub trait Number: Copy {
    /// The same number in f32.
    fn wide(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Some rows and columns.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: Slice<'a>,
    pub shape: [usize; 2],
    pub strides: [usize; 2],
}

impl<'a> View<'a> {
    pub fn new(data: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        Self::of(Slice::F32(data), shape, strides)
    }

    pub fn of(data: Slice<'a>, shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(reach(shape, strides) <= data.len(), "a view stays within its slice");
        Self { data, shape, strides }
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        Self { data: self.data, shape: [columns, rows], strides: [column, row] }
    }

    /// How many rows.
    pub fn n_rows(&self) -> usize {
        self.shape[0]
    }

    /// Whether the numbers of a row lie one after the other.
    pub fn has_whole_rows(&self) -> bool {
        self.strides[1] == 1 || self.shape[1] == 1
    }

    /// Whether the numbers lie in bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self.data, Slice::Bf16(_))
    }

    /// The numbers of a view in f32 from its first on.
    pub fn f32(self) -> &'a [f32] {
        match self.data {
            Slice::F32(data) => data,
            Slice::Bf16(_) => unreachable!("a frozen factor is widened first"),
        }
    }

    /// What a row begins with, of a view that has whole ones.
    #[inline(always)]
    pub fn row(self, row: usize) -> Slice<'a> {
        self.data.from(row * self.strides[0])
    }

    /// `len` rows from `first` on.
    pub fn rows(self, first: usize, len: usize) -> Self {
        Self::of(self.data.from(first * self.strides[0]), [len, self.shape[1]], self.strides)
    }

    /// Its numbers in f32, copied row by row, where its rows or its columns lie in memory one after the other.
    pub fn row_major(self) -> Buffer {
        let [rows, columns] = self.shape;
        let mut out = Buffer::stale(rows * columns);
        vectorised(
            #[inline(always)]
            || match self.data {
                _ if self.has_whole_rows() => {
                    out.chunks_exact_mut(columns).enumerate().for_each(|(row, place)| self.row(row).copy_to(place));
                }
                Slice::F32(data) => self.turn(&mut out, data),
                Slice::Bf16(data) => self.turn(&mut out, data),
            },
        );
        out
    }

    /// The numbers of whole columns, row by row.
    #[inline(always)]
    fn turn(self, out: &mut [f32], data: &[impl Number]) {
        let ([rows, columns], [_, stride]) = (self.shape, self.strides);
        // Eight columns at a time, and of each as many numbers as lie in one line of a cache.
        for first in (0..columns).step_by(8) {
            for top in (0..rows).step_by(16) {
                for row in top..rows.min(top + 16) {
                    let at = |i: usize| data[(first + i) * stride + row].wide();
                    let place = &mut out[row * columns + first..(row + 1) * columns];
                    match place.first_chunk_mut::<8>() {
                        Some(eight) => *eight = std::array::from_fn(at),
                        None => place.iter_mut().enumerate().for_each(|(i, v)| *v = at(i)),
                    }
                }
            }
        }
    }
}

/// One past the last number that `shape` and `strides` touch.
pub fn reach([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> usize {
    if rows * columns == 0 { 0 } else { (rows - 1) * row + (columns - 1) * column + 1 }
}
