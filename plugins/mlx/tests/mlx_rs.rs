//! What the engine takes for granted of mlx-rs, on the CPU: that it links, that half precision comes through, and the
//! conventions of the operations and streams that it uses.

use half::{bf16, f16};
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp, argmax_axis};
use mlx_rs::ops::{self, concatenate, dequantize, quantize, quantized_matmul, softmax_axis};
use mlx_rs::transforms::async_eval;
use mlx_rs::{Array, Device, Dtype, memory, random};
use std::collections::HashMap;

/// The CPU for what this thread does. MLX's default device is one for the whole process.
fn on_cpu() {
    assert!(Device::try_default().is_ok());
    Device::set_default(&Device::cpu());
}

/// Numbers in -1..1 that look random, the same on every run.
fn noise(shape: &[i32]) -> Array {
    let count: i32 = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
    Array::from_slice(&numbers, shape)
}

#[track_caller]
fn assert_close(a: &Array, b: &Array) {
    assert_eq!(a.shape(), b.shape());
    let difference = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap().try_item_cast::<f32>().unwrap();
    assert!(difference < 1e-4, "differs by {difference}");
}

#[test]
fn a_quantized_product_is_the_product_with_the_dequantized_matrix() {
    on_cpu();
    let (x, w) = (noise(&[3, 128]), noise(&[64, 128]));
    for bits in [2, 3, 4, 5, 6, 8] {
        let (packed, scales, biases) = quantize(&w, 32, bits).unwrap();
        assert_eq!((packed.dtype(), packed.shape()), (Dtype::Uint32, &[64, 128 * bits / 32][..]));
        assert_eq!(scales.shape(), [64, 128 / 32]);
        let product = quantized_matmul(&x, &packed, &scales, &biases, true, 32, bits).unwrap();
        let plain = dequantize(&packed, &scales, &biases, 32, bits).unwrap();
        assert_close(&product, &x.matmul(plain.t()).unwrap());
    }
}

#[test]
fn rope_takes_a_base_or_the_reciprocals_of_its_inverse_frequencies() {
    on_cpu();
    let x = noise(&[1, 2, 5, 16]);
    let frequencies: Vec<f32> = (0..8).map(|i| 10_000f32.powf(i as f32 / 8.0)).collect();
    let frequencies = Array::from_slice(&frequencies, &[8]);
    let by_base = fast::rope(&x, 16, false, 10_000.0, 1.0, 7, None).unwrap();
    let by_frequencies = fast::rope(&x, 16, false, None, 1.0, 7, &frequencies).unwrap();
    assert_close(&by_base, &by_frequencies);
    assert!(fast::rope(&x, 16, false, 10_000.0, 1.0, 0, &frequencies).is_err());

    // The last row at offset 7 is the only row at offset 11: axis -2 is the position.
    let last = fast::rope(x.try_index((.., .., 4..5, ..)).unwrap(), 16, false, 10_000.0, 1.0, 11, None).unwrap();
    assert_close(&by_base.try_index((.., .., 4..5, ..)).unwrap(), &last);
}

#[test]
fn attention_is_causal_towards_the_end_and_groups_query_heads() {
    on_cpu();
    let (q, k, v) = (noise(&[1, 4, 3, 16]), noise(&[1, 2, 8, 16]), noise(&[1, 2, 8, 16]));
    let causal = fast::scaled_dot_product_attention(&q, &k, &v, 0.25, Mask::Causal, None).unwrap();
    assert_eq!(causal.shape(), [1, 4, 3, 16]);
    // The three queries are the last of eight positions.
    let mask: Vec<bool> = (0..3).flat_map(|query| (0..8).map(move |key| key <= query + 5)).collect();
    let mask = Array::from_slice(&mask, &[3, 8]);
    let masked = fast::scaled_dot_product_attention(&q, &k, &v, 0.25, &mask, None).unwrap();
    assert_close(&causal, &masked);

    // By hand, for query head 3, which reads key head 1.
    let head = |a: &Array, head: i32| a.try_index((0, head)).unwrap();
    let scores = head(&q, 3).matmul(head(&k, 1).t()).unwrap().multiply(Array::from_f32(0.25)).unwrap();
    let scores = ops::select(&mask, &scores, Array::from_f32(f32::NEG_INFINITY)).unwrap();
    let by_hand = softmax_axis(&scores, -1, true).unwrap().matmul(head(&v, 1)).unwrap();
    assert_close(&head(&causal, 3), &by_hand);

    let without = fast::scaled_dot_product_attention(&q, &k, &v, 0.25, None::<Mask<'_>>, None).unwrap();
    assert_eq!(without.shape(), [1, 4, 3, 16]);
}

#[test]
fn rms_norm_normalizes_the_last_axis() {
    on_cpu();
    let (x, weight) = (noise(&[2, 3, 32]), noise(&[32]));
    let mean = x.square().unwrap().mean_axis(-1, true).unwrap().add(Array::from_f32(1e-5)).unwrap();
    let by_hand = x.multiply(mean.rsqrt().unwrap()).unwrap().multiply(&weight).unwrap();
    assert_close(&fast::rms_norm(&x, Some(&weight), 1e-5).unwrap(), &by_hand);
}

#[test]
fn half_precision_keeps_its_bits_in_and_out() {
    on_cpu();
    let halves = [f16::from_f32(1.5), f16::from_bits(0x0001), f16::MAX];
    let brains = [bf16::from_f32(1.5), bf16::from_bits(0x0001), bf16::MAX];
    let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    // SAFETY: the bytes are three numbers of two bytes each; MLX copies them.
    let raw = unsafe { Array::from_raw_data(bytes.as_ptr().cast(), &[3], Dtype::Float16) };
    assert_eq!(raw.try_as_slice::<f16>().unwrap(), halves);
    assert_eq!(Array::from_slice(&brains, &[3]).try_as_slice::<bf16>().unwrap(), brains);
    assert_eq!(raw.try_index(0).unwrap().try_item_exact::<f16>().unwrap(), halves[0]);
    let brain = Array::from_slice(&brains, &[3]).try_index(0).unwrap();
    assert_eq!(brain.try_item_exact::<bf16>().unwrap(), brains[0]);
    assert_eq!(raw.as_dtype(Dtype::Float32).unwrap().try_as_slice::<f32>().unwrap()[0], 1.5);
    // A scalar is an array like any other and promotes; it has to be made in the other's type.
    assert_eq!(raw.multiply(Array::from_f32(2.0)).unwrap().dtype(), Dtype::Float32);
    let two = Array::from_f32(2.0).as_dtype(raw.dtype()).unwrap();
    assert_eq!(raw.multiply(two).unwrap().dtype(), Dtype::Float16);
}

#[test]
fn safetensors_come_back_as_they_went() {
    on_cpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weight = noise(&[4, 8]).as_dtype(Dtype::Bfloat16).unwrap();
    Array::save_safetensors([("weight", &weight)], None, &path).unwrap();
    let loaded: HashMap<String, Array> = Array::load_safetensors(&path).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded["weight"].try_as_slice::<bf16>().unwrap(), weight.try_as_slice::<bf16>().unwrap());
    assert!(Array::load_safetensors(folder.path().join("none.safetensors")).is_err());
}

#[test]
fn the_next_token_can_be_computed_in_the_background() {
    on_cpu();
    let logits = noise(&[1, 1000]);
    let next = argmax_axis(&logits, -1, false).unwrap();
    async_eval([&next]).unwrap();
    let values = logits.try_as_slice::<f32>().unwrap();
    let largest = (0..1000).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
    assert_eq!(next.try_item_exact::<u32>().unwrap() as usize, largest);
}

#[test]
fn a_key_makes_a_draw_repeatable() {
    on_cpu();
    let logits = Array::from_slice(&[0.0f32, 5.0, 0.0, 5.0], &[1, 4]);
    let draws = |seed| {
        let key = random::key(seed).unwrap();
        let count = random::ShapeOrCount::Count(64);
        let drawn = random::categorical(&logits, -1, count, &key).unwrap();
        drawn.try_as_slice::<u32>().unwrap().to_vec()
    };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
    assert!(draws(1).iter().filter(|&&token| token % 2 == 1).count() > 50);
    // Without a key mlx-rs seeds itself from the clock.
    assert!(random::categorical(&logits, -1, None, None).unwrap().try_item_exact::<u32>().unwrap() < 4);
}

#[test]
fn a_cache_is_written_in_place_and_grown_by_concatenation() {
    on_cpu();
    const ROWS: i32 = 4096;
    let mut cache = ops::zeros_dtype(&[1, 2, ROWS, 64], Dtype::Float32).unwrap();
    // Zeros are one number, broadcast; the first write makes the room.
    for position in 0..4 {
        let row = noise(&[1, 2, 1, 64]);
        cache.try_index_mut((.., .., position..position + 1, ..), &row).unwrap();
        cache.eval().unwrap();
    }
    assert_close(&cache.try_index((.., .., 3..4, ..)).unwrap(), &noise(&[1, 2, 1, 64]));

    let address = |cache: &Array| cache.try_as_slice::<f32>().unwrap().as_ptr();
    let before = address(&cache);
    cache.try_index_mut((.., .., 4..5, ..), &noise(&[1, 2, 1, 64])).unwrap();
    cache.eval().unwrap();
    assert_eq!(address(&cache), before, "nobody else holds the buffer, so it is reused");

    let view = cache.try_index((.., .., ..5, ..)).unwrap();
    view.eval().unwrap();
    cache.try_index_mut((.., .., 5..6, ..), &noise(&[1, 2, 1, 64])).unwrap();
    cache.eval().unwrap();
    assert_ne!(address(&cache), before, "a view that lives keeps the old buffer");

    let more = ops::zeros_dtype(&[1, 2, 256, 64], Dtype::Float32).unwrap();
    assert_eq!(concatenate(&[&cache, &more], 2).unwrap().shape(), [1, 2, ROWS + 256, 64]);
}

#[test]
fn memory_is_counted_and_given_back() {
    on_cpu();
    let array = Array::from_slice(&vec![1f32; 4 << 20], &[4 << 20]);
    assert!(memory::active_memory().unwrap() >= 16 << 20);
    assert!(memory::peak_memory().unwrap() >= 16 << 20);
    drop(array);
    memory::clear_cache().unwrap();
    let limit = memory::set_memory_limit(1 << 40).unwrap();
    assert_eq!(memory::set_memory_limit(limit).unwrap(), 1 << 40);
}

#[test]
fn values_move_between_threads_and_unfinished_work_does_not() {
    on_cpu();
    let done = noise(&[8]).add(Array::from_f32(1.0)).unwrap();
    done.eval().unwrap();
    let pending = noise(&[8]).add(Array::from_f32(1.0)).unwrap();
    std::thread::spawn(move || {
        assert!(done.add(&done).unwrap().eval().is_ok());
        let error = pending.eval().unwrap_err();
        assert!(error.what().contains("in current thread"), "{error}");
    })
    .join()
    .unwrap();
}
