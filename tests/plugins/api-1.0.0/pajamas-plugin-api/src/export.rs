//! `export_plugin!`, the one macro that makes a crate a plugin.

/// Exports a backend. Use it once, in a crate with `crate-type = ["cdylib"]`:
///
/// ```
/// # use pajamas_plugin_api::*;
/// # struct Mine;
/// # impl Backend for Mine {
/// #     fn is_available(&self) -> Availability { Availability::Unavailable { reason: "x".into(), remedy: "".into() } }
/// #     fn capabilities(&self) -> Capabilities { Capabilities::new("cpu", &["mine"]) }
/// #     fn load_model(&self, _: &LoadRequest, _: &Progress, _: &CancelToken) -> Result<Box<dyn Model>> {
/// #         Err(Error::unsupported("x"))
/// #     }
/// # }
/// export_plugin! {
///     name: "mine",                    // the backend's name, as in `pajamas run --backend mine`
///     formats: "mine,gguf",            // model formats it loads, separated by commas
///     backend: || Box::new(Mine),      // called once, before anything else
/// }
/// # fn main() {}
/// ```
///
/// After `formats` may come `cpu_features: "avx2,fma"` (without which the code must not run, as `std::arch` names
/// them) and `minimum_host_api: "1.2.0"` (where functions of that version are needed). Version and description are
/// the crate's own, from its Cargo.toml. (`api_version` is for tests of the host.)
#[macro_export]
macro_rules! export_plugin {
    (
        name: $name:expr,
        formats: $formats:expr,
        $(cpu_features: $cpu_features:expr,)?
        $(minimum_host_api: $minimum:expr,)?
        $(api_version: $api:expr,)?
        backend: $construct:expr $(,)?
    ) => {
        const _: () = {
            #[cfg(panic = "abort")]
            compile_error!("a pajamas plugin must be built with panic = \"unwind\": a panic must not end the host");

            const fn or_default(values: &[&'static str], default: &'static str) -> &'static str {
                if values.is_empty() { default } else { values[0] }
            }
            const PARTS: &[&str] = &[
                "pajamas-plugin-1",
                "name = '''", $name,
                "'''\nversion = '''", env!("CARGO_PKG_VERSION"),
                "'''\ndescription = '''", env!("CARGO_PKG_DESCRIPTION"),
                "'''\napi_version = '''", or_default(&[$($api)?], $crate::API_VERSION),
                "'''\nminimum_host_api = '''", or_default(&[$($minimum)?], "1.0.0"),
                "'''\ntarget = '''", $crate::TARGET,
                "'''\nformats = '''", $formats,
                "'''\ncpu_features = '''", or_default(&[$($cpu_features)?], ""),
                "'''\n",
            ];
            const LENGTH: usize = $crate::manifest::length(PARTS);

            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__pajamas"))]
            #[cfg_attr(windows, unsafe(link_section = ".pajamas"))]
            #[cfg_attr(not(any(target_vendor = "apple", windows)), unsafe(link_section = ".pajamas.manifest"))]
            static MANIFEST: [u8; LENGTH] = $crate::manifest::join::<LENGTH>(PARTS);

            extern "C" fn init(host: $crate::abi::HostTableRef) -> $crate::abi::Reply {
                fn construct() -> Box<dyn $crate::Backend> {
                    ($construct)()
                }
                $crate::abi::guest::init(host, construct)
            }

            fn root() -> $crate::abi::PluginRootRef {
                $crate::abi::guest::root(init)
            }

            extern "C" fn load() -> $crate::__abi_stable::library::RootModuleResult {
                $crate::__abi_stable::library::__call_root_module_loader(root)
            }

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static pajamas_plugin_root: $crate::__abi_stable::library::LibHeader =
                // SAFETY: `load` returns a reference to this crate's root module type and nothing else.
                unsafe {
                    $crate::__abi_stable::library::LibHeader::from_constructor::<$crate::abi::PluginRootRef>(
                        load,
                        $crate::__abi_stable::library::CheckTypeLayout::Yes,
                    )
                };
        };
    };
}
