//! Benchmarks of the parts of ferroloop without Python: see `benches/`.
