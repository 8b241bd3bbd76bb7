//! Tensor types and file types, by the numbers that GGUF stores.

/// How a tensor's elements are stored: a row of ggml's type table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType {
    /// ggml's number for it.
    pub id: u32,
    /// ggml's name for it: `Q4_K`.
    pub name: &'static str,
    /// Elements per block; a row is a whole number of blocks.
    pub block_size: u64,
    /// Bytes per block.
    pub type_size: u64,
}

macro_rules! ggml_types {
    ($($constant:ident = $id:literal, $block:literal, $size:literal;)+) => {
        impl GgmlType {
            $(
                #[doc = concat!("`", stringify!($constant), "`.")]
                pub const $constant: Self =
                    Self { id: $id, name: stringify!($constant), block_size: $block, type_size: $size };
            )+
            /// Every type, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$constant),+];
        }
    };
}

// Numbers, block sizes and bytes as in ggml.h and ggml-common.h; removed types keep their numbers there.
ggml_types! {
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q8_1 = 9, 32, 36;
    Q2_K = 10, 256, 84;
    Q3_K = 11, 256, 110;
    Q4_K = 12, 256, 144;
    Q5_K = 13, 256, 176;
    Q6_K = 14, 256, 210;
    Q8_K = 15, 256, 292;
    IQ2_XXS = 16, 256, 66;
    IQ2_XS = 17, 256, 74;
    IQ3_XXS = 18, 256, 98;
    IQ1_S = 19, 256, 50;
    IQ4_NL = 20, 32, 18;
    IQ3_S = 21, 256, 110;
    IQ2_S = 22, 256, 82;
    IQ4_XS = 23, 256, 136;
    I8 = 24, 1, 1;
    I16 = 25, 1, 2;
    I32 = 26, 1, 4;
    I64 = 27, 1, 8;
    F64 = 28, 1, 8;
    IQ1_M = 29, 256, 56;
    BF16 = 30, 1, 2;
    TQ1_0 = 34, 256, 54;
    TQ2_0 = 35, 256, 66;
    MXFP4 = 39, 32, 17;
    NVFP4 = 40, 64, 36;
    Q1_0 = 41, 128, 18;
    Q2_0 = 42, 64, 18;
}

impl GgmlType {
    /// The type with ggml's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|ggml_type| ggml_type.id == id)
    }

    /// The type with ggml's name `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|ggml_type| ggml_type.name.eq_ignore_ascii_case(name))
    }

    /// Bytes of a tensor of `shape` (innermost dimension first); none if a row is no whole number of blocks or
    /// the size cannot be counted in 64 bits.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let row = shape.first().copied().unwrap_or(1);
        if row % self.block_size != 0 {
            return None;
        }
        let rows = shape.iter().skip(1).try_fold(1_u64, |product, size| product.checked_mul(*size))?;
        (row / self.block_size).checked_mul(self.type_size)?.checked_mul(rows)
    }
}

/// `general.file_type`: what most of a file's tensors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileType {
    /// llama.cpp's number for it (`LLAMA_FTYPE_…`).
    pub id: u32,
    /// The name that users know: `Q4_K_M`.
    pub name: &'static str,
}

impl FileType {
    /// Every tensor in single precision.
    pub const F32: Self = Self { id: 0, name: "F32" };
    /// Matrices in half precision.
    pub const F16: Self = Self { id: 1, name: "F16" };
    /// Matrices in bfloat16.
    pub const BF16: Self = Self { id: 32, name: "BF16" };

    /// Experts in MXFP4.
    pub const MXFP4_MOE: Self = Self { id: 38, name: "MXFP4_MOE" };

    /// Every file type, as in llama.h; those that were removed are left out.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::F16,
        Self { id: 2, name: "Q4_0" },
        Self { id: 3, name: "Q4_1" },
        Self { id: 7, name: "Q8_0" },
        Self { id: 8, name: "Q5_0" },
        Self { id: 9, name: "Q5_1" },
        Self { id: 10, name: "Q2_K" },
        Self { id: 11, name: "Q3_K_S" },
        Self { id: 12, name: "Q3_K_M" },
        Self { id: 13, name: "Q3_K_L" },
        Self { id: 14, name: "Q4_K_S" },
        Self { id: 15, name: "Q4_K_M" },
        Self { id: 16, name: "Q5_K_S" },
        Self { id: 17, name: "Q5_K_M" },
        Self { id: 18, name: "Q6_K" },
        Self { id: 19, name: "IQ2_XXS" },
        Self { id: 20, name: "IQ2_XS" },
        Self { id: 21, name: "Q2_K_S" },
        Self { id: 22, name: "IQ3_XS" },
        Self { id: 23, name: "IQ3_XXS" },
        Self { id: 24, name: "IQ1_S" },
        Self { id: 25, name: "IQ4_NL" },
        Self { id: 26, name: "IQ3_S" },
        Self { id: 27, name: "IQ3_M" },
        Self { id: 28, name: "IQ2_S" },
        Self { id: 29, name: "IQ2_M" },
        Self { id: 30, name: "IQ4_XS" },
        Self { id: 31, name: "IQ1_M" },
        Self::BF16,
        Self { id: 36, name: "TQ1_0" },
        Self { id: 37, name: "TQ2_0" },
        Self::MXFP4_MOE,
        Self { id: 39, name: "NVFP4" },
        Self { id: 40, name: "Q1_0" },
        Self { id: 41, name: "Q2_0" },
    ];

    /// The file type with llama.cpp's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|file_type| file_type.id == id)
    }

    /// The file type named `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|file_type| file_type.name.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_blocks() {
        assert_eq!(GgmlType::Q4_K.tensor_bytes(&[512, 3]), Some(2 * 144 * 3));
        assert_eq!(GgmlType::Q4_K.tensor_bytes(&[100, 3]), None);
        assert_eq!(GgmlType::F32.tensor_bytes(&[u64::MAX, 2]), None);
        assert_eq!(GgmlType::from_name("q6_k"), GgmlType::from_id(14));
        assert_eq!(FileType::from_name("q4_k_m").map(|file_type| file_type.id), Some(15));
    }
}
