//! Saves the logits of a model on the beginning of a text as a NumPy array, for `tests/oracle/validate_golden.py`.
//!
//! ```text
//! logits PLUGIN.so MODEL TEXT TOKENS WINDOW OUT.npy
//! ```
//!
//! The array has one row for each scored position, as `pajamas validate` scores them. The ids of the tokens that follow
//! those positions are printed as JSON.

use pajamas_plugin_api::abi::client::Plugin;
use pajamas_plugin_api::{CancelToken, HostServices, LoadRequest};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::absolute;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plugin, model, text, tokens, window, out] = arguments.as_slice() else {
        return Err("usage: logits PLUGIN.so MODEL TEXT TOKENS WINDOW OUT.npy".into());
    };
    let (tokens, window) = (tokens.parse::<usize>()?, window.parse::<usize>()?);
    let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), 1);
    // SAFETY: whoever names the file on the command line trusts it.
    let plugin = unsafe { Plugin::open(&absolute(plugin)?, services)? };
    let mut request = LoadRequest::new(absolute(model)?);
    request.context_length = Some(u32::try_from(window)?);
    let model = plugin.load_model(&request, &|_| (), &CancelToken::never())?;
    let ids = model.tokenize(&std::fs::read_to_string(text)?, false, false)?;
    let (mut next, mut values) = (Vec::new(), Vec::new());
    for ids in ids[..tokens].chunks_exact(window) {
        let mut keep = |position: usize, row: &[f32]| {
            if let Some(id) = ids.get(position + 1) {
                next.push(*id);
                values.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            }
            ControlFlow::Continue(())
        };
        model.logits(ids, 0, &mut keep, &CancelToken::never())?;
    }
    let columns = values.len() / 4 / next.len();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {columns}), }}", next.len());
    // NumPy's format 1.0: magic, version, the header's length in two bytes, the header padded to a multiple of 64.
    let padding = 64 - (10 + header.len() + 1) % 64;
    let header = format!("{header}{}\n", " ".repeat(padding));
    let mut file = std::fs::File::create(out)?;
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(&values)?;
    println!("{}", serde_json::to_string(&next)?);
    Ok(())
}
