//! The arithmetic of affine quantization: groups of weights become small whole numbers, a scale and a bias, bit for
//! bit as MLX computes them on a CPU.
//!
//! A weight is read back as `scale × number + bias`. A group's bias is its end that is farther from zero, which is so
//! kept exactly; its scale, negative where that end is the upper one, is corrected so that zero falls on a number.
//! All of it is computed in single precision, whatever type scale and bias are stored in.

use crate::float_type::FloatType;

/// The bits that a weight can have.
pub const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
/// The weights that can share a scale and a bias.
pub const GROUP_SIZES: [u32; 3] = [32, 64, 128];

/// The largest of [`GROUP_SIZES`].
const GROUP_MAX: usize = 128;
/// The smallest scale, for groups of equal weights.
const SCALE_MIN: f32 = 1e-7;
/// Weights that are looked at side by side.
const LANES: usize = 8;

/// How a matrix is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affine {
    bits: u32,
    group_size: u32,
}

/// Quantized weights, as they are stored.
#[derive(Debug, Default)]
pub struct Quantized {
    /// The numbers, as one stream of bits from the lowest of the first byte on: what MLX's packed `uint32` are in
    /// little-endian memory.
    pub weight: Vec<u8>,
    /// A scale per group.
    pub scales: Vec<u8>,
    /// A bias per group.
    pub biases: Vec<u8>,
}

/// A group cannot be quantized: it holds a number that is not finite, or its ends are too far apart for a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// The group's place among those that were given.
    pub group: usize,
}

impl Affine {
    /// None for bits and group sizes that MLX does not have.
    pub fn new(bits: u32, group_size: u32) -> Option<Self> {
        (BITS.contains(&bits) && GROUP_SIZES.contains(&group_size)).then_some(Self { bits, group_size })
    }

    /// Bits per number.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// Weights per group.
    pub fn group_size(self) -> u32 {
        self.group_size
    }

    /// `uint32` per row of `columns` weights; none where the group size does not divide them.
    pub fn packed_columns(self, columns: u64) -> Option<u64> {
        self.groups(columns)?;
        // A group is a whole number of words, because 32 divides it.
        (columns / 32).checked_mul(u64::from(self.bits))
    }

    /// Groups per row of `columns` weights; none where the group size does not divide them.
    pub fn groups(self, columns: u64) -> Option<u64> {
        let size = u64::from(self.group_size);
        (columns > 0 && columns.is_multiple_of(size)).then(|| columns / size)
    }

    /// Quantizes the weights in `source`, little-endian elements of type `from`, after rounding them to `to`, the type
    /// that scales and biases are stored in. Replaces what is in `out`; a part of a group at the end is ignored.
    ///
    /// # Errors
    /// [`NotFinite`] for weights that are not numbers or not finite, be it only after the rounding.
    pub fn quantize(self, source: &[u8], from: FloatType, to: FloatType, out: &mut Quantized) -> Result<(), NotFinite> {
        // The packing is a handful of shifts that are known to the compiler when the bits are.
        let groups = match self.bits {
            2 => groups::<2>,
            3 => groups::<3>,
            4 => groups::<4>,
            5 => groups::<5>,
            6 => groups::<6>,
            _ => groups::<8>,
        };
        groups(self.group_size as usize, source, from, to, out)
    }
}

/// Quantizes group after group.
fn groups<const BITS: usize>(
    group_size: usize,
    source: &[u8],
    from: FloatType,
    to: FloatType,
    out: &mut Quantized,
) -> Result<(), NotFinite> {
    let count = source.len() / (group_size * from.size_bytes());
    let packed_bytes = group_size / 8 * BITS;
    out.weight.clear();
    out.weight.resize(count * packed_bytes, 0);
    out.scales.clear();
    out.biases.clear();
    let mut values = [0.0; GROUP_MAX];
    let values = &mut values[..group_size];
    // Scales and biases are encoded in blocks, which is quicker than one by one.
    let mut scales = Vec::with_capacity(count);
    let mut biases = Vec::with_capacity(count);
    let pieces = source.chunks_exact(group_size * from.size_bytes()).zip(out.weight.chunks_exact_mut(packed_bytes));
    for (group, (bytes, packed)) in pieces.enumerate() {
        from.decode(bytes, values);
        if !to.holds(from) {
            to.round(values);
        }
        let (scale, bias) = scale_and_bias::<BITS>(values).ok_or(NotFinite { group })?;
        pack::<BITS>(values, scale, bias, packed);
        scales.push(scale);
        biases.push(bias);
    }
    to.encode(&scales, &mut out.scales);
    to.encode(&biases, &mut out.biases);
    Ok(())
}

/// A group's scale and bias, none where they would not be finite.
fn scale_and_bias<const BITS: usize>(values: &[f32]) -> Option<(f32, f32)> {
    let mut low = [f32::INFINITY; LANES];
    let mut high = [f32::NEG_INFINITY; LANES];
    let mut poison = [0.0_f32; LANES];
    for eight in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = eight[lane];
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            // Zero times a number is zero, but for infinities and NaN: then it is NaN and stays so.
            poison[lane] += value * 0.0;
        }
    }
    if poison.iter().any(|lane| lane.is_nan()) {
        return None;
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);

    let steps = ((1_u32 << BITS) - 1) as f32;
    let size = ((high - low) / steps).max(SCALE_MIN);
    let (edge, scale) = if low.abs() > high.abs() { (low, size) } else { (high, -size) };
    let zero = (edge / scale).round_ties_even();
    // An edge that rounds to zero leaves the group around zero.
    let (scale, bias) = if zero == 0.0 { (scale, 0.0) } else { (edge / zero, edge) };
    scale.is_finite().then_some((scale, bias))
}

/// Turns finite weights into numbers of `BITS` bits and packs them.
fn pack<const BITS: usize>(values: &[f32], scale: f32, bias: f32, packed: &mut [u8]) {
    /// Added to a small number, it leaves that number, rounded to nearest with ties to even, in the lowest bits. The
    /// CPU's own rounding is not in every x86-64.
    const ROUND: f32 = 12_582_912.0;
    let steps = ((1_u32 << BITS) - 1) as f32;
    for (eight, packed) in values.as_chunks::<LANES>().0.iter().zip(packed.chunks_exact_mut(BITS)) {
        let mut numbers = [0_u32; LANES];
        for lane in 0..LANES {
            // Both ends are whole, so that clamping before rounding is the same as after.
            let number = (eight[lane] - bias) / scale;
            let number = if number > 0.0 { number } else { 0.0 };
            let number = if number < steps { number } else { steps };
            numbers[lane] = (number + ROUND).to_bits() & 0xff;
        }
        let bits =
            numbers.iter().enumerate().fold(0, |bits, (lane, number)| bits | u64::from(*number) << (lane * BITS));
        packed.copy_from_slice(&bits.to_le_bytes()[..BITS]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(values: &[f32], bits: u32, group_size: u32) -> Result<Quantized, NotFinite> {
        let mut source = Vec::new();
        FloatType::F32.encode(values, &mut source);
        let mut out = Quantized::default();
        let affine = Affine::new(bits, group_size).expect("bits and group size of MLX");
        affine.quantize(&source, FloatType::F32, FloatType::F32, &mut out).map(|()| out)
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / 4];
        FloatType::F32.decode(bytes, &mut values);
        values
    }

    /// The weights as they are read back.
    fn restore(quantized: &Quantized, bits: u32, group_size: u32) -> Vec<f32> {
        let (scales, biases) = (floats(&quantized.scales), floats(&quantized.biases));
        let bit = |at: usize| u32::from(quantized.weight[at / 8] >> (at % 8) & 1);
        (0..quantized.weight.len() * 8 / bits as usize)
            .map(|index| {
                let number = (0..bits).map(|place| bit(index * bits as usize + place as usize) << place).sum::<u32>();
                let group = index / group_size as usize;
                scales[group] * number as f32 + biases[group]
            })
            .collect()
    }

    #[test]
    fn weights_come_back_within_a_step() {
        let mut state = 1_u32;
        let values: Vec<f32> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.3
        })
        .take(384)
        .collect();
        for bits in BITS {
            for group_size in GROUP_SIZES {
                let quantized = quantize(&values, bits, group_size).unwrap();
                assert_eq!(quantized.weight.len(), 384 * bits as usize / 8);
                let step = 1.0 / ((1 << bits) - 1) as f32;
                for (value, restored) in values.iter().zip(restore(&quantized, bits, group_size)) {
                    assert!((value - restored).abs() <= step, "{bits} bits: {value} came back as {restored}");
                }
            }
        }
    }

    #[test]
    fn the_farther_end_and_zero_are_kept_exactly() {
        let values: Vec<f32> = (0..32).map(|index| (index - 4) as f32 / 8.0).collect();
        let quantized = quantize(&values, 4, 32).unwrap();
        let restored = restore(&quantized, 4, 32);
        assert_eq!((restored[31], restored[4]), (values[31], 0.0));
        assert!(floats(&quantized.scales)[0] < 0.0, "the upper end is the farther one");
    }

    #[test]
    fn flat_groups_are_kept_exactly() {
        for value in [0.0, -0.0, 0.25, -7.5, 1e-9] {
            let quantized = quantize(&[value; 32], 2, 32).unwrap();
            let expected = if value == 1e-9 { 0.0 } else { value };
            assert_eq!(restore(&quantized, 2, 32), [expected; 32]);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_with_their_group() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [0.5; 128];
            values[77] = bad;
            assert_eq!(quantize(&values, 8, 64).unwrap_err(), NotFinite { group: 1 });
        }
        // The distance of the ends is beyond single precision.
        let values: Vec<f32> = (0..32).map(|index| if index % 2 == 0 { 3e38 } else { -3e38 }).collect();
        assert_eq!(quantize(&values, 4, 32).unwrap_err(), NotFinite { group: 0 });
        let mut out = Quantized::default();
        let mut source = Vec::new();
        FloatType::F32.encode(&[70_000.0; 32], &mut source);
        let affine = Affine::new(4, 32).unwrap();
        assert!(affine.quantize(&source, FloatType::F32, FloatType::F16, &mut out).is_err());
        assert!(affine.quantize(&source, FloatType::F32, FloatType::Bf16, &mut out).is_ok());
    }

    #[test]
    fn only_mlx_bits_and_group_sizes_exist() {
        assert!(Affine::new(7, 64).is_none() && Affine::new(4, 16).is_none());
        let affine = Affine::new(3, 64).unwrap();
        assert_eq!((affine.packed_columns(128), affine.groups(128)), (Some(12), Some(2)));
        assert_eq!((affine.packed_columns(96), affine.groups(0)), (None, None));
    }
}
