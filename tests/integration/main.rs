//! The product from the outside, one module per promise.

mod bad_input;
mod benchmark;
mod chat;
mod config_command;
mod conversion;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cpu_levels;
mod doctor;
#[cfg(unix)]
mod documentation;
mod examples;
mod generation;
#[cfg(target_os = "linux")]
mod gpu_cuda;
mod gpu_vulkan;
mod help_and_json;
#[cfg(target_os = "linux")]
mod hostile_files;
#[cfg(target_os = "linux")]
mod hostile_plugins;
mod hub_server;
mod info;
#[cfg(unix)]
mod installing;
mod interruption;
#[cfg(unix)]
mod library;
mod library_surface;
#[cfg(target_os = "linux")]
mod manners;
mod misbehaving_plugins;
mod mlx;
mod mlx_quantizing;
mod models_command;
mod older_api;
mod oracle;
#[cfg(unix)]
mod plugin_commands;
mod plugin_listing;
mod plugin_template;
mod pulling;
mod quality;
mod quantizing;
mod registry;
mod searching;
mod sweeping;
mod terminal;
mod together;
mod validating;
