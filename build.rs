//! Sets `cfg`s for the interpreter's version, lets `cargo test` find libpython, lays out the
//! extension module for profilers and, for programs that embed the loop, lists the sources of the
//! Python package.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    // Otherwise Cargo scans every file of the package, and build/ may contain unreadable
    // directories.
    println!("cargo::rerun-if-changed=build.rs");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
    choose_task_layout();
    align_segments();
    if env::var_os("CARGO_FEATURE_EMBED").is_some() {
        list_python_sources()?;
    }
    Ok(())
}

/// Sets the `cfg` under which tasks have the layout of asyncio's own, which CPython publishes from
/// 3.14 on. On free-threaded builds the interpreter's lists of tasks have locks of their own.
fn choose_task_layout() {
    use pyo3_build_config::{BuildFlag, PythonVersion};

    println!("cargo::rustc-check-cfg=cfg(published_tasks)");
    let python = pyo3_build_config::get();
    let publishes = python.version() >= PythonVersion { major: 3, minor: 14 };
    let is_64_bit = env::var("CARGO_CFG_TARGET_POINTER_WIDTH").is_ok_and(|width| width == "64");
    if publishes && is_64_bit && !python.build_flags().0.contains(&BuildFlag::Py_GIL_DISABLED) {
        println!("cargo::rustc-cfg=published_tasks");
    }
}

/// Makes LLD, Rust's linker on x86-64 Linux, give each segment a file offset equal to its address.
/// py-spy uses file offsets as addresses and cannot unwind the native stack otherwise. GNU ld does
/// so by default. A linker that the user has chosen may not support the option (Zig's rejects it).
fn align_segments() {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && env::var_os("RUSTC_LINKER").is_none()
    {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,separate-loadable-segments");
    }
}

/// Writes a slice of `(module name, source)` for `src/api/embed/package.rs` to include.
fn list_python_sources() -> io::Result<()> {
    let variable = |name| env::var(name).map_err(io::Error::other);
    let package = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("python/ferroloop");
    println!("cargo::rerun-if-changed={}", package.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&package)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            files.push(path);
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let name = match stem {
            "__init__" => "ferroloop".to_owned(),
            stem => format!("ferroloop.{stem}"),
        };
        writeln!(list, "({name:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    list.push(']');
    fs::write(Path::new(&variable("OUT_DIR")?).join("python_sources.rs"), list)
}
