//! Blocks of quantized weights taken apart: into MLX's affine format where they fit it, into half precision where not.
//!
//! The layouts are ggml's (`ggml-common.h`): <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.

use half::f16;

/// Weights that share a scale and a bias.
pub(super) const GROUP_SIZE: i32 = 32;

/// The types that are read.
pub(super) const TYPES: [&str; 5] = ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"];

/// A tensor's weights.
pub(super) enum Read {
    /// In groups of [`GROUP_SIZE`]: a weight is its scale times its number plus its bias.
    Affine {
        bits: i32,
        /// Little-endian 32-bit words, the first weight in the lowest bits.
        weights: Vec<u8>,
        /// F16.
        scales: Vec<u8>,
        /// F16.
        biases: Vec<u8>,
    },
    /// F16.
    Floats(Vec<u8>),
}

/// Takes `bytes` of type `kind` apart; none for a type that is not among [`TYPES`].
pub(super) fn read(kind: &str, bytes: &[u8]) -> Option<Read> {
    let mut groups = Groups::default();
    match kind {
        "Q4_0" => bytes.as_chunks().0.iter().for_each(|block| groups.q4_0(block)),
        "Q4_1" => bytes.as_chunks().0.iter().for_each(|block| groups.q4_1(block)),
        "Q8_0" => bytes.as_chunks().0.iter().for_each(|block| groups.q8_0(block)),
        "Q4_K" => bytes.as_chunks().0.iter().for_each(|block| groups.q4_k(block)),
        "Q6_K" => {
            return Some(Read::Floats(bytes.as_chunks().0.iter().flat_map(q6_k).flat_map(f16::to_le_bytes).collect()));
        }
        _ => return None,
    }
    let Groups { weights, scales, biases } = groups;
    Some(Read::Affine { bits: if kind == "Q8_0" { 8 } else { 4 }, weights, scales, biases })
}

#[derive(Default)]
struct Groups {
    weights: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Groups {
    /// A scale, then numbers from 0 to 15 that stand for -8 to 7.
    fn q4_0(&mut self, block: &[u8; 18]) {
        let (scale, numbers) = block.split_at(2);
        self.halved(number(scale), number(scale) * -8.0, numbers);
    }

    /// A scale and a minimum, then numbers from 0 to 15.
    fn q4_1(&mut self, block: &[u8; 20]) {
        self.halved(number(&block[..2]), number(&block[2..4]), &block[4..]);
    }

    /// A scale, then signed bytes, which become unsigned ones, 128 higher.
    fn q8_0(&mut self, block: &[u8; 34]) {
        let (scale, numbers) = block.split_at(2);
        self.group(number(scale), number(scale) * -128.0);
        self.weights.extend(numbers.iter().map(|byte| byte ^ 0x80));
    }

    /// A scale of scales and one of minima, eight of both in 6 bits each, then eight groups of numbers from 0 to 15,
    /// two groups sharing 32 bytes.
    fn q4_k(&mut self, block: &[u8; 144]) {
        let (scale, minimum) = (number(&block[..2]), number(&block[2..4]));
        let packed = &block[4..16];
        for (pair, numbers) in block[16..].as_chunks::<32>().0.iter().enumerate() {
            for (half, shift) in [(0, 0), (1, 4)] {
                let (by, less) = scale_and_minimum(packed, 2 * pair + half);
                self.group(scale * f32::from(by), minimum * -f32::from(less));
                let numbers = numbers.as_chunks::<2>().0.iter();
                self.weights.extend(numbers.map(|[first, second]| (first >> shift & 15) | (second >> shift & 15) << 4));
            }
        }
    }

    /// A group whose first 16 numbers are in the lower halves of `bytes`, the others in the upper halves.
    fn halved(&mut self, scale: f32, bias: f32, bytes: &[u8]) {
        self.group(scale, bias);
        for shift in [0, 4] {
            let pairs = bytes.as_chunks::<2>().0.iter();
            self.weights.extend(pairs.map(|[first, second]| (first >> shift & 15) | (second >> shift & 15) << 4));
        }
    }

    fn group(&mut self, scale: f32, bias: f32) {
        self.scales.extend(f16::from_f32(scale).to_le_bytes());
        self.biases.extend(f16::from_f32(bias).to_le_bytes());
    }
}

/// The `index`th of eight scales and minima: the first four lie in the lower 6 bits, the rest of the others in what is
/// left above them.
fn scale_and_minimum(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        ((low & 15) | (packed[index - 4] >> 6) << 4, (low >> 4) | (packed[index] >> 6) << 4)
    }
}

/// 256 weights of 6 bits, four of them in 128 bytes, two in 64, with 16 scales in groups of 16, and a scale of those.
fn q6_k(block: &[u8; 210]) -> [f16; 256] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = number(&block[208..]);
    std::array::from_fn(|index| {
        let (half, quarter, lane) = (index / 128, index % 128 / 32, index % 32);
        let four = low[64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter / 2)) & 15;
        let two = high[32 * half + lane] >> (2 * quarter) & 3;
        let by = scales[8 * half + 2 * quarter + lane / 16].cast_signed();
        f16::from_f32(scale * f32::from(by) * (f32::from(four | two << 4) - 32.0))
    })
}

/// An F16 number.
fn number(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the blocks stand for, one group at a time.
    fn decode(kind: &str, bytes: &[u8]) -> Vec<f32> {
        let Some(Read::Affine { bits, weights, scales, biases }) = read(kind, bytes) else { panic!("{kind}") };
        let unpacked: Vec<u8> = match bits {
            8 => weights,
            _ => weights.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect(),
        };
        let of_group = |numbers: &[u8], index: usize| number(&numbers[2 * index..2 * index + 2]);
        let value = |(index, weight): (usize, &u8)| {
            f32::from(*weight) * of_group(&scales, index / 32) + of_group(&biases, index / 32)
        };
        unpacked.iter().enumerate().map(value).collect()
    }

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn blocks_of_32_stand_for_what_they_stood_for() {
        let nibbles: Vec<u8> = (0..16).map(|i| i | ((15 - i) << 4)).collect();
        let first = (0..16_u8).chain((0..16).rev());
        let expected: Vec<f32> = first.clone().map(|q| (f32::from(q) - 8.0) * 0.5).collect();
        assert_eq!(decode("Q4_0", &[&half(0.5)[..], &nibbles].concat()), expected);
        let expected: Vec<f32> = first.map(|q| f32::from(q) * 0.25 + 3.0).collect();
        assert_eq!(decode("Q4_1", &[&half(0.25)[..], &half(3.0), &nibbles].concat()), expected);
        let bytes: Vec<u8> = (0..32_i8).map(|i| (i * 8 - 127).cast_unsigned()).collect();
        let expected: Vec<f32> = bytes.iter().map(|byte| f32::from(byte.cast_signed()) * 0.125).collect();
        assert_eq!(decode("Q8_0", &[&half(0.125)[..], &bytes].concat()), expected);
        assert!(read("Q5_K", &[0; 176]).is_none());
    }

    #[test]
    fn the_scales_of_blocks_of_256_are_unpacked_in_order() {
        // Scales 1 to 8 and minima 60 down to 53, packed as ggml packs them.
        let (scales, minima): (Vec<u8>, Vec<u8>) = ((1..=8).collect(), (53..=60).rev().collect());
        let mut packed = [0_u8; 12];
        for index in 0..4 {
            packed[index] = scales[index] | (scales[index + 4] >> 4) << 6;
            packed[index + 4] = minima[index] | (minima[index + 4] >> 4) << 6;
            packed[index + 8] = (scales[index + 4] & 15) | (minima[index + 4] & 15) << 4;
        }
        let unpacked: Vec<(u8, u8)> = (0..8).map(|index| scale_and_minimum(&packed, index)).collect();
        assert_eq!(unpacked, scales.into_iter().zip(minima).collect::<Vec<_>>());
    }
}
