"""asyncio on a Rust event loop."""
