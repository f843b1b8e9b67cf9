//! Passes the interpreter's version on as `cfg`s and lets `cargo test` find libpython.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
}
