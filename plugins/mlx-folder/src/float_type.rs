//! The float types that tensors are stored in, and exact conversions between them.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use pajamas_hf_model::Dtype;

/// How many halves are converted at once: as many as the largest quantization group has elements.
const BLOCK: usize = 128;

/// A float type of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// IEEE 754 single precision.
    F32,
}

impl FloatType {
    /// In the order in which they are offered.
    pub const ALL: [Self; 3] = [Self::F16, Self::Bf16, Self::F32];

    /// The type of a tensor, none if it holds no floats that are read.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 => Some(Self::Bf16),
            Dtype::F32 => Some(Self::F32),
            Dtype::Other(_) => None,
        }
    }

    /// As `config.json` and the option `dtype` name it: `bfloat16`.
    pub fn word(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    /// The type of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|float_type| float_type.word() == word)
    }

    /// As safetensors names it: `BF16`.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
        }
    }

    /// Bytes per element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Whether every number of type `other` is one of this type too.
    pub fn holds(self, other: Self) -> bool {
        self == other || self == Self::F32
    }

    /// Decodes little-endian elements into `values`; whichever is shorter ends it.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => {
                for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*four);
                }
            }
            Self::Bf16 => {
                for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
                }
            }
            Self::F16 => {
                let mut bits = [0_u16; BLOCK];
                for (values, bytes) in values.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * 2)) {
                    let count = values.len().min(bytes.len() / 2);
                    for (bits, pair) in bits.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *bits = u16::from_le_bytes(*pair);
                    }
                    bits[..count].reinterpret_cast::<half::f16>().convert_to_f32_slice(&mut values[..count]);
                }
            }
        }
    }

    /// Appends `values` as little-endian elements, rounded to nearest, ties to even; too large ones become infinite.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|value| bf16_bits(*value).to_le_bytes())),
            Self::F16 => {
                let mut halves = [half::f16::ZERO; BLOCK];
                for values in values.chunks(BLOCK) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    out.extend(halves.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
        }
    }

    /// The index of the first finite value that is too large for this type, if there is one.
    pub fn first_overflow(self, values: &[f32]) -> Option<usize> {
        // The smallest number that rounds to infinity.
        let limit = match self {
            Self::F16 => 65_520.0,
            Self::Bf16 => f32::from_bits(0x7f7f_8000),
            Self::F32 => return None,
        };
        values.iter().position(|value| value.is_finite() && value.abs() >= limit)
    }

    /// Rounds `values` to what this type can hold, as if they had been encoded and decoded.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::Bf16 => {
                for value in values {
                    *value = f32::from_bits(u32::from(bf16_bits(*value)) << 16);
                }
            }
            Self::F16 => {
                let mut halves = [half::f16::ZERO; BLOCK];
                for values in values.chunks_mut(BLOCK) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    halves.convert_to_f32_slice(values);
                }
            }
        }
    }
}

/// The upper half of `value`, rounded to nearest, ties to even. Not for NaN, whose payload could round to infinity.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // A finite number's bits and the carry stay below 2³²: the sign's bit is the only one above the exponent's.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_a_round_trip() {
        for float_type in [FloatType::F16, FloatType::Bf16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut values = vec![0.0; 65536];
            float_type.decode(&bytes, &mut values);
            let mut back = Vec::new();
            float_type.encode(&values, &mut back);
            let mut rounded = values.clone();
            float_type.round(&mut rounded);
            for (index, value) in values.iter().enumerate() {
                if value.is_nan() {
                    assert!(rounded[index].is_nan());
                } else {
                    assert_eq!(back[index * 2..][..2], bytes[index * 2..][..2], "{float_type:?} {index:#x}");
                    assert_eq!(rounded[index].to_bits(), value.to_bits());
                }
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        let mut values = [1.0 + 0.001953125, 1.0 + 0.00390625, 1.0 + 0.01171875, 3.4e38, -0.0, 1e-45];
        FloatType::Bf16.round(&mut values);
        assert_eq!(values[..3], [1.0, 1.0, 1.015625]);
        assert_eq!((values[3], values[4].to_bits(), values[5]), (f32::INFINITY, 1 << 31, 0.0));
        let mut values = [65519.9, 65520.0, 6e-8, 2.9e-8];
        FloatType::F16.round(&mut values);
        assert_eq!(values, [65504.0, f32::INFINITY, 5.9604645e-8, 0.0]);
    }

    #[test]
    fn overflow_begins_where_rounding_gives_infinity() {
        for (float_type, limit) in [(FloatType::F16, 65_520.0_f32), (FloatType::Bf16, f32::from_bits(0x7f7f_8000))] {
            let mut values = [limit.next_down(), -limit];
            assert_eq!(float_type.first_overflow(&values), Some(1));
            float_type.round(&mut values);
            assert!(values[0].is_finite() && values[1] == f32::NEG_INFINITY);
            assert_eq!(float_type.first_overflow(&[f32::INFINITY, f32::NAN]), None, "it was so before");
        }
        assert_eq!(FloatType::F32.first_overflow(&[f32::MAX]), None);
    }

    #[test]
    fn words_and_sizes_agree() {
        for float_type in FloatType::ALL {
            assert_eq!(FloatType::from_word(float_type.word()), Some(float_type));
            let mut bytes = Vec::new();
            float_type.encode(&[1.0; 300], &mut bytes);
            assert_eq!(bytes.len(), 300 * float_type.size_bytes());
            assert!(FloatType::F32.holds(float_type));
        }
        assert!(!FloatType::F16.holds(FloatType::Bf16) && !FloatType::Bf16.holds(FloatType::F32));
    }
}
