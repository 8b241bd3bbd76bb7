//! Which tensor goes where in which safetensors file: known to the byte before anything is written.

use serde_json::{Map, Value, json};

/// The most bytes of tensors in a file, as in mlx-lm. A larger tensor has a file to itself.
pub const SHARD_BYTES_MAX: u64 = 5 << 30;

/// A header's length is stored in so many bytes before it, and headers are padded to a multiple of them.
const LENGTH_BYTES: usize = 8;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTensor {
    /// `model.layers.0.self_attn.q_proj.scales`.
    pub name: String,
    /// As safetensors names it: `U32`.
    pub dtype: &'static str,
    /// Bytes per element.
    pub element_bytes: u64,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
}

impl OutputTensor {
    /// Bytes of its data. Cannot overflow: it is smaller than a source whose size was checked, or twice as large.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.element_bytes
    }
}

/// The safetensors files of a model.
#[derive(Debug)]
pub struct Layout {
    /// In the order of their numbers.
    pub files: Vec<ShardFile>,
    /// Where each tensor's data begins, in the order in which they were given.
    pub places: Vec<Place>,
}

/// A safetensors file to be written.
#[derive(Debug)]
pub struct ShardFile {
    /// `model.safetensors` or `model-00001-of-00002.safetensors`.
    pub name: String,
    /// Everything before the first tensor's data.
    pub head: Vec<u8>,
    /// Bytes of the whole file.
    pub size_bytes: u64,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The file's index in [`Layout::files`].
    pub file: usize,
    /// Bytes from the file's beginning.
    pub offset: u64,
}

impl Layout {
    /// Fills file after file with `tensors` in their order, each with at most `shard_bytes_max` bytes of data.
    pub fn new(tensors: &[OutputTensor], shard_bytes_max: u64) -> Self {
        let shards = shards(tensors, shard_bytes_max);
        let count = shards.len();
        let mut layout =
            Self { files: Vec::with_capacity(count), places: vec![Place { file: 0, offset: 0 }; tensors.len()] };
        for (file, mut members) in shards.into_iter().enumerate() {
            // The widest elements come first, so that each tensor begins at a multiple of its element's size.
            members.sort_by_key(|index| std::cmp::Reverse(tensors[*index].element_bytes));
            let mut entries = Map::new();
            entries.insert("__metadata__".into(), json!({ "format": "mlx" }));
            let mut end = 0;
            for index in members {
                let tensor = &tensors[index];
                layout.places[index] = Place { file, offset: end };
                let start = end;
                end += tensor.size_bytes();
                entries.insert(
                    tensor.name.clone(),
                    json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] }),
                );
            }
            let head = head(&Value::Object(entries));
            for place in layout.places.iter_mut().filter(|place| place.file == file) {
                place.offset += head.len() as u64;
            }
            let name = if count == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{count:05}.safetensors", file + 1)
            };
            layout.files.push(ShardFile { name, size_bytes: head.len() as u64 + end, head });
        }
        layout
    }

    /// `model.safetensors.index.json`. `parameters` are the model's weights, counted before quantization.
    pub fn index(&self, tensors: &[OutputTensor], parameters: u64) -> Value {
        let mut names: Vec<(&str, &str)> = tensors
            .iter()
            .zip(&self.places)
            .map(|(tensor, place)| (tensor.name.as_str(), self.files[place.file].name.as_str()))
            .collect();
        names.sort_unstable();
        let weight_map: Map<String, Value> = names.into_iter().map(|(name, file)| (name.into(), file.into())).collect();
        let total_size: u64 = tensors.iter().map(OutputTensor::size_bytes).sum();
        json!({
            "metadata": { "total_size": total_size, "total_parameters": parameters },
            "weight_map": weight_map,
        })
    }
}

/// The tensors of each file, by index.
fn shards(tensors: &[OutputTensor], shard_bytes_max: u64) -> Vec<Vec<usize>> {
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.size_bytes();
        if let Some(last) = shards.last_mut()
            && (last.is_empty() || filled + bytes <= shard_bytes_max)
        {
            last.push(index);
            filled += bytes;
        } else {
            shards.push(vec![index]);
            filled = bytes;
        }
    }
    shards
}

/// The length and the header, padded with spaces.
fn head(header: &Value) -> Vec<u8> {
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.extend(text);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, element_bytes: u64, elements: u64) -> OutputTensor {
        let dtype = if element_bytes == 4 { "U32" } else { "BF16" };
        OutputTensor { name: name.into(), dtype, element_bytes, shape: vec![elements] }
    }

    #[test]
    fn files_are_filled_in_order_and_elements_are_aligned() {
        let tensors = [tensor("a", 2, 3), tensor("b", 4, 2), tensor("c", 2, 1), tensor("d", 4, 100), tensor("e", 2, 1)];
        let layout = Layout::new(&tensors, 16);
        let files: Vec<usize> = layout.places.iter().map(|place| place.file).collect();
        assert_eq!(files, [0, 0, 0, 1, 2], "the largest has a file to itself");
        let names: Vec<&str> = layout.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names[0], "model-00001-of-00003.safetensors");
        for (tensor, place) in tensors.iter().zip(&layout.places) {
            assert!(place.offset.is_multiple_of(tensor.element_bytes), "{}", tensor.name);
        }
        assert!(layout.places[1].offset < layout.places[0].offset);
        let bytes: u64 = layout.files.iter().map(|file| file.size_bytes - file.head.len() as u64).sum();
        assert_eq!(bytes, 6 + 8 + 2 + 400 + 2);
    }

    #[test]
    fn one_file_has_a_short_name_and_an_index_all_the_same() {
        let tensors = [tensor("b", 2, 3), tensor("a", 2, 1)];
        let layout = Layout::new(&tensors, SHARD_BYTES_MAX);
        assert_eq!(layout.files.len(), 1);
        let expected = r#"{"metadata":{"total_size":8,"total_parameters":4},"weight_map":{"a":"model.safetensors","b":"model.safetensors"}}"#;
        assert_eq!(layout.index(&tensors, 4).to_string(), expected);
    }
}
