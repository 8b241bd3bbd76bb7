//! Elements as floats, and floats as elements of any type: natively for those that are floats themselves, by ggml for
//! those that are blocks.

use crate::engine::handle::start_library;
use crate::gguf_file::GgmlType;
use half::slice::HalfFloatSliceExt;
use llama_cpp_sys_2 as sys;
use pajamas_hf_model::{Dtype, decode_f32};
use pajamas_plugin_api::{Error, Result};

/// Decodes `bytes`, little-endian elements or blocks of type `from`.
///
/// # Errors
/// `Unsupported` for types that ggml cannot decode.
pub(crate) fn decode(from: GgmlType, bytes: &[u8]) -> Result<Vec<f32>> {
    match from {
        GgmlType::F32 => return Ok(decode_f32(Dtype::F32, bytes)),
        GgmlType::F16 => return Ok(decode_f32(Dtype::F16, bytes)),
        GgmlType::BF16 => return Ok(decode_f32(Dtype::Bf16, bytes)),
        _ => {}
    }
    // SAFETY: ggml knows the number, as `GgmlType`'s table is ggml's; it gives an entry of a static table.
    let to_float = unsafe { (*sys::ggml_get_type_traits(from.id)).to_float };
    let (Some(to_float), true) = (to_float, from.block_size > 1) else {
        return Err(Error::unsupported(format!("elements of type {} cannot be read as numbers", from.name)));
    };
    let blocks = bytes.len() / from.type_size as usize;
    let mut values = vec![0.0; blocks * from.block_size as usize];
    // SAFETY: the bytes hold that many whole blocks, and the values have room for all of their elements. Allocators align what
    // is as long as a block to at least its members' size.
    unsafe { to_float(bytes.as_ptr().cast(), values.as_mut_ptr(), values.len() as i64) };
    Ok(values)
}

/// Encodes `values`, rows of `width`, as `to`; floats are rounded to nearest, ties to even. `importance` weighs the
/// columns of these rows for types of blocks.
///
/// # Errors
/// `Unsupported` for values that the type cannot hold; `Other` when ggml makes something invalid.
pub(crate) fn encode(to: GgmlType, values: &[f32], width: u64, importance: Option<&[f32]>) -> Result<Vec<u8>> {
    match to {
        GgmlType::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        GgmlType::F16 => {
            let mut halves = vec![half::f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            if halves.iter().any(|half| half.is_infinite()) {
                return Err(Error::unsupported("a value is too large for half precision, which ends at 65504")
                    .with_hint("use BF16 or F32"));
            }
            Ok(halves.iter().flat_map(|half| half.to_le_bytes()).collect())
        }
        GgmlType::BF16 => Ok(values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()),
        blocks => quantize(blocks, values, width, importance),
    }
}

fn quantize(to: GgmlType, values: &[f32], width: u64, importance: Option<&[f32]>) -> Result<Vec<u8>> {
    let rows = values.len() as u64 / width.max(1);
    let size = to.tensor_bytes(&[width, rows]).filter(|_| rows * width == values.len() as u64 && to.block_size > 1);
    let Some(size) = size else {
        return Err(Error::other(format!("rows of {width} elements cannot be stored as {}", to.name)));
    };
    debug_assert!(importance.is_none_or(|importance| importance.len() as u64 == width));
    // SAFETY: ggml knows the number. Without weights it would abort.
    if importance.is_none() && unsafe { sys::ggml_quantize_requires_imatrix(to.id) } {
        return Err(Error::other(format!("{} needs an importance matrix", to.name)));
    }
    start_library();
    let mut bytes = vec![0_u8; size as usize];
    let importance = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: there are `rows` rows of `width` values, as many weights as a row has, if any, and room for the rows' blocks,
    // aligned as above.
    let (written, valid) = unsafe {
        let to_pointer = bytes.as_mut_ptr().cast();
        let (rows, width) = (rows as i64, width as i64);
        let written = sys::ggml_quantize_chunk(to.id, values.as_ptr(), to_pointer, 0, rows, width, importance);
        (written, sys::ggml_validate_row_data(to.id, bytes.as_ptr().cast(), bytes.len()))
    };
    if written != bytes.len() || !valid {
        return Err(Error::invalid_model(format!("ggml made invalid blocks of type {}", to.name))
            .with_hint("weights this large fit BF16 or F32"));
    }
    Ok(bytes)
}

/// Whether all of `bytes`, elements of type `of`, are finite numbers; of blocks their scales, which are all that can be none.
pub(crate) fn all_finite(of: GgmlType, bytes: &[u8]) -> bool {
    // Not a number and infinity are the values whose exponent's bits are all set. A fold, unlike a search, is vectorised.
    let halves = |mask: u16| {
        let halves = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        halves.fold(true, |finite, bits| finite & (bits & mask != mask))
    };
    match of {
        GgmlType::F32 => {
            let words = bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
            words.fold(true, |finite, bits| finite & (bits & 0x7f80_0000 != 0x7f80_0000))
        }
        GgmlType::F16 => halves(0x7c00),
        GgmlType::BF16 => halves(0x7f80),
        // SAFETY: ggml knows the number, and reads as many bytes as there are.
        blocks => unsafe { sys::ggml_validate_row_data(blocks.id, bytes.as_ptr().cast(), bytes.len()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_found() {
        for (of, nan, one) in [
            (GgmlType::F32, f32::NAN.to_le_bytes().to_vec(), 1_f32.to_le_bytes().to_vec()),
            (GgmlType::F16, half::f16::INFINITY.to_le_bytes().to_vec(), half::f16::ONE.to_le_bytes().to_vec()),
            (GgmlType::BF16, half::bf16::NEG_INFINITY.to_le_bytes().to_vec(), half::bf16::MAX.to_le_bytes().to_vec()),
        ] {
            let mut bytes = one.repeat(40);
            assert!(all_finite(of, &bytes));
            let at = 17 * one.len();
            bytes[at..at + nan.len()].copy_from_slice(&nan);
            assert!(!all_finite(of, &bytes), "{}", of.name);
        }
    }

    #[test]
    fn blocks_go_there_and_nearly_back() {
        let values: Vec<f32> = (0..512).map(|index| (index as f32 * 0.37).sin()).collect();
        for (to, error_max) in [(GgmlType::Q8_0, 0.01), (GgmlType::Q4_K, 0.1), (GgmlType::Q6_K, 0.03)] {
            let bytes = encode(to, &values, 256, None).expect("encoded");
            assert_eq!(bytes.len() as u64, to.tensor_bytes(&[256, 2]).unwrap());
            let back = decode(to, &bytes).expect("decoded");
            let error = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(back.len() == 512 && error < error_max, "{}: {error}", to.name);
        }
        let mut blocks = encode(GgmlType::Q8_0, &values, 256, None).expect("encoded");
        assert!(all_finite(GgmlType::Q8_0, &blocks));
        blocks[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
        assert!(!all_finite(GgmlType::Q8_0, &blocks));
        assert!(encode(GgmlType::IQ2_XXS, &values, 256, None).is_err(), "weights are needed");
        assert!(encode(GgmlType::F16, &[1e6], 1, None).unwrap_err().hint.unwrap().contains("BF16"));
    }
}
